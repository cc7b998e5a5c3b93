"""A network says which knobs it has not, instead of passing them over."""

from seg import config as config_lib


def knobs(config: config_lib.Model, *names: str) -> None:
    """Raises ConfigError where one of these knobs is not left as it is."""
    for name in names:
        value = getattr(config, name)
        default = getattr(config_lib.Model(), name)
        if value != default:
            own = "unset" if default is None else default
            raise config_lib.ConfigError(
                f"model.{name}={value}: {config.name} has no such choice; "
                f"leave the knob out, or give --model.{name}={own}"
            )
