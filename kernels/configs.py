"""Launch configurations from outside: of an earlier night, whose kernel may have been another, or of a tuner."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from kernels.errors import ConfigError
from kernels.spec import Case

Config = TypeVar("Config")


def read_config(config_type: type[Config], config: Mapping[str, object], case: Case) -> Config:
    """The `config` of an earlier Launch as the record that the kernel launches with.

    Raises:
        ConfigError: it has a key too many or too few, or a value of another type.
    """
    declared: Any = config_type
    types = {entry.name: entry.type for entry in fields(declared)}
    require_keys(config, types, types, case)
    for name, value in config.items():
        if type(value) is not types[name]:
            raise ConfigError(f"{case.layer.kernel} takes {name} as {_name(types[name])} (this is {value!r})")
    return config_type(**config)


def require_keys(
    config: Mapping[str, object], needed: Mapping[str, object], known: Mapping[str, object], case: Case
) -> None:
    """Refuse a configuration without a key that is needed, or with one that is not known."""
    kernel = case.layer.kernel
    for name in config:
        if name not in known:
            raise ConfigError(f"{kernel} takes no {name} in a launch configuration: it has {', '.join(known)}")
    for name in needed:
        if name not in config:
            raise ConfigError(
                f"{kernel} needs {name} in a launch configuration: this has {', '.join(config) or 'none'}"
            )


def _name(of_type: object) -> str:
    return of_type.__name__ if isinstance(of_type, type) else str(of_type)
