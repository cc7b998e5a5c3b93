"""The names of the steps that scale intensities, and what they ask for."""

from seg.config.errors import ConfigError, unknown

STEPS = (
    "percentile", "standard", "minmax", "range", "global", "invert",
    "equalize", "gamma", "columns", "none",
)  # fmt: skip

_TO_ONE = {"percentile", "minmax", "range", "equalize"}  # into [0, 1], about
_KEEP = {"invert", "none", "gamma"}  # leave the scale as it is


def steps(text: str) -> tuple[str, ...]:
    """The steps of "invert + minmax", in their order.

    Raises ConfigError for a name that is not known, a gamma of intensities
    that no step before has brought into [0, 1], and columns before the end:
    of its result nothing is known before the tile is.
    """
    found = tuple(name.strip() for name in text.split("+"))
    for at, name in enumerate(found):
        if name not in STEPS:
            raise ConfigError(unknown("step of data.normalize", name, STEPS))
        if name == "gamma" and _scale(found[:at]) != "one":
            raise ConfigError(
                f"data.normalize={text!r}: gamma needs intensities in [0, 1]; "
                "put minmax, percentile, range or equalize before it"
            )
        if name == "columns" and at < len(found) - 1:
            raise ConfigError(
                f"data.normalize={text!r}: columns looks at the tile; put it "
                "last"
            )
    return found


def _scale(names: tuple[str, ...]) -> str:
    """Where these steps bring intensities: "raw" as stored, "one", "other"."""
    scale = "raw"
    for name in names:
        if name in _TO_ONE:
            scale = "one"
        elif name not in _KEEP:
            scale = "other"
    return scale


def is_to_one(text: str) -> bool:
    """Whether these steps end in [0, 1], about."""
    return _scale(steps(text)) == "one"


def is_raw(text: str) -> bool:
    """Whether these steps leave intensities as large as they are stored."""
    return _scale(steps(text)) == "raw"
