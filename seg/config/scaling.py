"""The names of the steps that scale intensities, and what they ask for."""

from seg.config.errors import ConfigError, unknown

STEPS = (
    "percentile", "standard", "minmax", "range", "global", "invert",
    "equalize", "gamma", "columns", "none",
)  # fmt: skip

_TO_ONE = {"percentile", "minmax", "range", "equalize"}  # into [0, 1], about
_RAW = {"invert", "none"}  # leave the scale as it is


def steps(text: str) -> tuple[str, ...]:
    """The steps of "invert + minmax", in their order.

    Raises ConfigError for a name that is not known, a gamma of intensities
    that no step before has brought into [0, 1], and columns before the end:
    of its result nothing is known before the tile is.
    """
    found = tuple(name.strip() for name in text.split("+"))
    scale = "raw"
    for at, name in enumerate(found):
        if name not in STEPS:
            raise ConfigError(unknown("step of data.normalize", name, STEPS))
        if name == "gamma" and scale != "one":
            raise ConfigError(
                f"data.normalize={text!r}: gamma needs intensities in [0, 1]; "
                "put minmax, percentile, range or equalize before it"
            )
        if name == "columns" and at < len(found) - 1:
            raise ConfigError(
                f"data.normalize={text!r}: columns looks at the tile; put it "
                "last"
            )
        if name in _TO_ONE:
            scale = "one"
        elif name in ("standard", "global"):
            scale = "other"
    return found


def is_to_one(text: str) -> bool:
    """Whether these steps end in [0, 1], about."""
    scaled = [s for s in steps(text) if s not in _RAW | {"gamma"}]
    return bool(scaled) and scaled[-1] in _TO_ONE


def is_raw(text: str) -> bool:
    """Whether these steps leave intensities as large as they are stored."""
    return set(steps(text)) <= _RAW
