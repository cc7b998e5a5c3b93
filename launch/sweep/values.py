"""The knobs that a SWEEP names, and the values that it gives them."""

import math
from typing import Any

from launch.sweep import names
from seg import config as config_lib

RANGES = ("log", "uniform", "int")
# A comparison has one yardstick and one place in which it is recorded.
_FIXED = ("track.", "mesh.", "train.monitor", "train.mode", "train.resume_")


def check_knob(knob: Any) -> None:
    """Raises ConfigError where a knob is unknown, or cannot be varied."""
    known = {path for path, *_ in config_lib.leaves()}
    if knob not in known:
        near = config_lib.nearest(str(knob), known)
        tail = f"did you mean {' or '.join(near)}?" if near else "see --help"
        raise config_lib.ConfigError(
            f"SWEEP: unknown knob {knob!r:.50}; {tail}"
        )
    if knob.startswith(_FIXED):
        raise config_lib.ConfigError(
            f"SWEEP: {knob} is the same for all trials; give it in "
            f"get_config() or as --{knob}"
        )


def choices(base: config_lib.Config, knob: str, values: Any) -> list[Any]:
    """The values of a list, as the knob has them; raises ConfigError."""
    check_knob(knob)
    if not isinstance(values, list) or not values:
        raise config_lib.ConfigError(
            f"SWEEP: {knob}={values!r:.60}; give a list of values"
            + (", or add 'search'" if isinstance(values, tuple) else "")
        )
    # what they are with others is seen when all are put together
    return [cast(base, {knob: v}, check=False)[knob] for v in values]


def check_range(
    base: config_lib.Config, knob: str, values: tuple[Any, ...]
) -> None:
    """Raises ConfigError where (kind, low, high) does not fit the knob."""
    check_knob(knob)
    where = f"SWEEP: {knob}={values!r}"
    kind = str(values[0]) if values else ""
    if kind not in RANGES:
        raise config_lib.ConfigError(
            f"{where}; {config_lib.unknown('range', kind, RANGES)}"
        )
    ends = values[1:]
    numbers = all(type(x) in (int, float) and math.isfinite(x) for x in ends)
    if len(ends) != 2 or not numbers or not ends[0] < ends[1]:
        raise config_lib.ConfigError(
            f"{where}; give ({kind!r}, low, high), the lower end first"
        )
    if kind == "log" and ends[0] <= 0:
        raise config_lib.ConfigError(f"{where}; a log range begins above 0")
    for end in ends:
        # .5 more is in the range too, unless it is of whole numbers
        value = end if kind == "int" else float(end)
        cast(base, {knob: value})


def cast(
    base: config_lib.Config, point: dict[str, Any], check: bool = True
) -> dict[str, Any]:
    """The point with values of the knobs' types, if a config of it can run."""
    try:
        config = config_lib.replace(base, point)
        if check:
            config_lib.check(config)
    except config_lib.ConfigError as error:
        shown = ", ".join(f"{k}={names.text(v)}" for k, v in point.items())
        raise config_lib.ConfigError(f"SWEEP, at {shown}: {error}") from error
    flat = config_lib.to_flat(config)
    return {knob: flat[knob] for knob in point}
