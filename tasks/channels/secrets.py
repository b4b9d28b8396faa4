"""What channels need to know and nobody may see: read from the environment or from Prefect's Secret blocks.

A value is named by its variable wherever something is wrong with it; it is in no error, no repr and no worker process.
"""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TypeVar, cast

from tasks.errors import ChannelError, UsageError

SECRET_VARIABLES = (
    "KERNEL_NIGHTLY_WEBHOOK_URL",
    "KERNEL_NIGHTLY_SLACK_URL",
    "KERNEL_NIGHTLY_SMTP_URL",
    "KERNEL_NIGHTLY_MAIL_FROM",
    "KERNEL_NIGHTLY_MAIL_TO",
)
BLOCK_PREFIX = "block:"
"""Of a value that is the name of a Secret block."""

Parsed = TypeVar("Parsed")


class Secret:
    """The value of a variable, which only `parse` reads; one that names a block is loaded then."""

    __slots__ = ("_value", "variable")

    def __init__(self, variable: str, value: str) -> None:
        self.variable = variable
        self._value = value.strip()

    def __repr__(self) -> str:
        return f"Secret({self.variable!r})"

    def check(self, parse: Callable[[str, str], object]) -> None:
        """Parse a value that is at hand, and leave one in a block for when it is needed.

        Raises:
            UsageError: it is malformed, or a block without a name.
        """
        if not self._value.startswith(BLOCK_PREFIX):
            parse(self.variable, self._value)
        elif self._value == BLOCK_PREFIX:
            raise UsageError(f"{self.variable} is {BLOCK_PREFIX} without a name; give {BLOCK_PREFIX}NAME")

    def parse(self, parse: Callable[[str, str], Parsed]) -> Parsed:
        """What the value means, as a function of the variable's name and the value finds it.

        Raises:
            ChannelError: the block cannot be read, or what it holds is malformed.
        """
        value = self._value
        if value.startswith(BLOCK_PREFIX):
            value = _load_block(self.variable, value.removeprefix(BLOCK_PREFIX))
        try:
            return parse(self.variable, value)
        except UsageError as error:
            raise ChannelError(str(error)) from None


@contextmanager
def hide_secrets(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Take the variables out of an environment while the block starts processes that are to know nothing of them."""
    hidden = {name: environ.pop(name) for name in SECRET_VARIABLES if name in environ}
    try:
        yield
    finally:
        environ.update(hidden)


def _load_block(variable: str, name: str) -> str:
    """The text of a Secret block."""
    import httpx
    from prefect.blocks.system import Secret as SecretBlock
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            block = cast("SecretBlock[str]", SecretBlock.load(name))
    except ValueError:
        raise ChannelError(f"Prefect has no Secret block {name!r}, which {variable} names; create it") from None
    except (httpx.HTTPError, PrefectException, RuntimeError, OSError) as error:
        told = f"cannot read the Secret block {name!r}, which {variable} names: {type(error).__name__}"
        raise ChannelError(f"{told}; see PREFECT_API_URL") from None
    value = block.get()
    if not isinstance(value, str):
        raise ChannelError(f"the Secret block {name!r}, which {variable} names, holds no text")
    return value.strip()
