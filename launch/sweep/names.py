"""Names of trials, for people and for file systems.

A name holds all knobs of its trial, as "name=unet,learning_rate=0.001", so
that values can be added to a grid and the trials that are there keep their
names; of the seeds the base's alone is not named, so that seeds can be added,
too.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from launch.compare import knobs as knobs_lib

_LONGEST = 100  # characters


def name(
    point: Mapping[str, Any], knobs: Iterable[str], seed: int, number: str = ""
) -> str:
    """The name of a trial.

    Parameters
    ----------
    point : its knobs and their values.
    knobs : all that the sweep varies.
    seed : the one that is not named.
    number : what the name begins with.
    """
    short = knobs_lib.labels(knobs)
    parts = [number] * bool(number) + [
        f"{short[knob]}={_plain(text(value))}"
        for knob, value in point.items()
        if knob != knobs_lib.SEED or value != seed
    ]
    found = ",".join(parts)
    found = found or "base"
    return found if len(found) <= _LONGEST else distinct(found, point)


def _plain(text: str) -> str:
    """The text in signs that no shell or file system reads otherwise."""
    text = re.sub(r"[^\w.+=-]+", "_", re.sub(r"\s+", "", text))
    return text.strip("_") or "_"


def distinct(name: str, point: Mapping[str, Any]) -> str:
    """The name ended by a mark of the point, within the length allowed."""
    text = repr(sorted(point.items()))
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9]}-{mark}"


def text(value: Any) -> str:
    """A knob's value in names and tables."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")  # as few digits as tell it apart
    if isinstance(value, tuple | list):
        return "+".join(map(text, value)) or "none"
    return str(value) if str(value) else "none"
