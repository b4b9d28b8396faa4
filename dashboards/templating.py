"""Templates hold the markup and escape every value."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from dashboards.flags import list_flags
from dashboards.incidents import name_anchor, tell_again
from dashboards.trials import tell_device
from dashboards.words import tell_change, tell_day, tell_figure, tell_half_width, tell_ratio, tell_size, tell_utc


def render(template: str, root: str = "", here: str = "", **values: object) -> str:
    """Fill a template.

    Args:
        root: from the page's folder to the site's.
        here: file of the page, if the navigation has it.
    """
    return find_environment().get_template(template).render(root=root, here=here, **values)


@cache
def find_environment() -> Environment:
    """Templates that escape everything and fail on a name that does not exist."""
    environment = Environment(
        loader=PackageLoader("dashboards"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": tell_figure, "change": tell_change, "size": tell_size, "utc": tell_utc}
    environment.filters |= {"ratio": tell_ratio, "half_width": tell_half_width, "device": tell_device}
    environment.filters |= {"flags": list_flags, "again": tell_again, "day": tell_day, "incident_anchor": name_anchor}
    return environment
