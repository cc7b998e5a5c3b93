"""The axes of an image by their letters, and what a choice of planes means.

Y and X are the image, C and S its channels. Along any other axis (Z, T, the
pages I and Q of a TIFF, ...) lie planes, and one of them is an image.

A choice is text, `Z=3,T=0`. What follows a letter is counted from 0:

    Z=3        an entry; the axis is gone
    Z=2-5      these four, each on its own
    C=0+2      several; channels stay together, in this order
    Z=max      the largest value of all, pixel by pixel; or Z=mean
    Z=max:2-5  that of some

No axis and no entry may come twice. C stands for S too, where a file has no C.
Whatever does not fit the file is an ImageError of one line.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seg import images

CHANNELS = "CS"
PROJECTIONS = ("max", "mean")
_NAMES = {
    "Z": "planes in depth",
    "T": "points in time",
    "I": "pages",
    "Q": "pages",
    "R": "replicates",
    "A": "angles",
    "P": "positions",
    "M": "mosaic tiles",
}
_SPAN = r"\d{1,7}(-\d{1,7})?"
_PART = re.compile(
    r"(?P<axis>[A-Z])=(?:(?P<merged>MAX|MEAN)(?P<some>:)?)?"
    rf"(?P<entries>{_SPAN}(\+{_SPAN})*)?"
)
# Of a choice in all: no file has more, and the text may come from anywhere.
# as `planes` labels them: stem_t000_z003
_PLANE = re.compile(r"(?P<stem>.+?)(?P<label>(_[a-z]\d{3,})+)")
_MOST_ENTRIES = 2**20
_SHOWN = 60  # characters of a choice in a message

Index = tuple[int | slice | list[int], ...]


class Choice(NamedTuple):
    """What is wanted of an axis.

    entries: in this order; None = all of them.
    merged: a name of `PROJECTIONS` that makes one of them; "" = none.
    """

    entries: tuple[int, ...] | None
    merged: str = ""

    def __str__(self) -> str:
        text = ""
        if self.entries is not None:
            first, last = self.entries[0], self.entries[-1]
            text = "+".join(map(str, self.entries))
            if self.entries == tuple(range(first, last + 1)) and first < last:
                text = f"{first}-{last}"
        return ":".join(filter(None, (self.merged, text)))


class Plane(NamedTuple):
    """One image of a file.

    label: what its name has, as `t000_z003`; "" where there is only one.
    select: the choice of it, alone.
    """

    label: str = ""
    select: str = ""


def parse(select: str, name: str) -> dict[str, Choice]:
    """Reads a choice; its letters may be small."""
    wanted: dict[str, Choice] = {}
    shown = repr(select if len(select) <= _SHOWN else f"{select[:_SHOWN]}...")
    start, n_entries = f"{name}: select={shown}", 0
    for part in filter(None, select.replace(" ", "").upper().split(",")):
        found = _PART.fullmatch(part)
        ranges = _ranges(found["entries"] or "") if found else []
        merged = (found["merged"] or "").lower() if found else ""
        joined = bool(found and found["some"]) == bool(merged and ranges)
        if not (found and joined and all(ranges) and (ranges or merged)):
            raise images.ImageError(
                f"{start} is not like 'Z=3', 'Z=3,T=0', 'Z=0-4', 'C=0+2' or "
                "'Z=max'"
            )
        axis = found["axis"]
        if axis in wanted:
            raise images.ImageError(f"{start} names {axis} twice; join them")
        # counted before they are made: a few characters mean many
        n_entries += sum(map(len, ranges))
        if n_entries > _MOST_ENTRIES:
            raise images.ImageError(
                f"{start} means more than {_MOST_ENTRIES} entries; choose fewer"
            )
        if (twice := _repeated(ranges)) is not None:
            raise images.ImageError(
                f"{start} names {axis}={twice} twice; leave one out"
            )
        wanted[axis] = Choice(tuple(itertools.chain(*ranges)) or None, merged)
    return wanted


def _ranges(text: str) -> list[range]:
    found = []
    for part in filter(None, text.split("+")):
        first, _, last = part.partition("-")
        found.append(range(int(first), int(last or first) + 1))
    return found


def _repeated(ranges: Sequence[range]) -> int | None:
    """An entry that is in two of these ranges."""
    ordered = sorted(ranges, key=lambda one: one.start)
    for before, after in itertools.pairwise(ordered):
        if after.start < before.stop:
            return after.start
    return None


def _wanted(
    axes: str, shape: Sequence[int], name: str, select: str
) -> dict[str, Choice]:
    """The choice by the axes of the file, within their lengths."""
    wanted = parse(select, name)
    if "C" in wanted and "C" not in axes and "S" in axes:
        if "S" in wanted:
            raise images.ImageError(
                f"{name}: select={select!r}: here C is S; choose by one of them"
            )
        wanted["S"] = wanted.pop("C")
    if missing := wanted.keys() - set(axes):
        raise images.ImageError(
            f"{name}: has no axis {', '.join(sorted(missing))}; its axes are "
            f"{axes}"
        )
    if wanted.keys() & set("YX"):
        raise images.ImageError(
            f"{name}: select={select!r}, but Y and X are the image itself; "
            "choose of the other axes"
        )
    for axis, choice in wanted.items():
        length = shape[axes.index(axis)]
        beyond = [i for i in choice.entries or () if i >= length]
        if beyond:
            raise images.ImageError(
                f"{name}: {axis}={beyond[0]}, but it has {axis} from 0 to "
                f"{length - 1}"
            )
        if axis in CHANNELS and choice.merged:
            raise images.ImageError(
                f"{name}: {axis}={choice}: channels are not merged; choose "
                f"some, as {axis}=0"
            )
    return wanted


def choose(
    axes: str, shape: Sequence[int], name: str, select: str
) -> tuple[Index, str]:
    """An index (for `take`) of one plane, and the axes that it leaves.

    Raises ImageError for an axis that needs a choice, or has no such entry.
    """
    wanted = _wanted(axes, shape, name, select)
    index: list[int | slice | list[int]] = []
    kept = ""
    for axis, length in zip(axes, shape, strict=True):
        entries = wanted.get(axis, Choice(None)).entries
        if entries is not None and len(entries) == 1:
            index.append(entries[0])
        elif axis in "YX" or axis in CHANNELS:
            index.append(slice(None) if entries is None else list(entries))
            kept += axis
        elif length == 1:
            index.append(0)
        else:
            what = _NAMES.get(axis, f"entries along {axis}")
            stacked = {
                axis: length
                for axis, length in zip(axes, shape, strict=True)
                if axis not in "YX" + CHANNELS and length > 1
            }
            raise images.StackError(
                f"{name}: a stack of {length} {what} (axes {axes}, "
                f"shape {tuple(shape)}); choose one with select='{axis}=0' to "
                f"'{axis}={length - 1}', all of them with '{axis}=max', or "
                "save it as a file of its own",
                stacked,
            )
    return tuple(index), kept


def first(axes: str) -> Index:
    """An index of the first plane, whatever else there is."""
    return tuple(
        slice(None) if axis in "YX" or axis in CHANNELS else 0 for axis in axes
    )


def planes(
    axes: str,
    shape: Sequence[int],
    name: str,
    select: str = "",
    project: str = "",
) -> list[Plane]:
    """The planes of a file that a choice leaves, each on its own.

    project: what becomes of Z, a name of `PROJECTIONS`, where the choice says
    nothing else of it.
    """
    wanted = _wanted(axes, shape, name, select)
    if project and "Z" in axes:
        depth = wanted.get("Z", Choice(None))
        wanted["Z"] = Choice(depth.entries, depth.merged or project)
    fixed, open_ = [], []
    for axis in _ordered(axes):
        length = shape[axes.index(axis)]
        choice = wanted.get(axis, Choice(None))
        entries = choice.entries or tuple(range(length))
        if axis in CHANNELS:
            if choice.entries is not None:
                fixed.append(f"{axis}={choice}")
        elif choice.merged and len(entries) > 1:
            fixed.append(f"{axis}={choice}")
        elif length > 1:  # one that is chosen has its number in the name too
            width = max(3, len(str(length - 1)))
            open_.append([(axis, i, width) for i in entries])
    return [
        Plane(
            "_".join(f"{axis.lower()}{i:0{w}d}" for axis, i, w in place),
            ",".join([*(f"{axis}={i}" for axis, i, _ in place), *fixed]),
        )
        for place in itertools.product(*open_)
    ]


def of_plane(stem: str) -> tuple[str, str]:
    """(Stem of the file, select) by the stem of results of one of its planes.

    A stem without a plane's label is the file's, with nothing to select.
    """
    plane = _PLANE.fullmatch(stem)
    if not plane:
        return stem, ""
    parts = plane["label"].strip("_").split("_")
    select = ",".join(f"{part[0].upper()}={int(part[1:])}" for part in parts)
    return plane["stem"], select


def _ordered(axes: str) -> list[str]:
    """Axes but Y and X in the order of a name: time, then depth, come last."""
    rest = [axis for axis in axes if axis not in "YX"]
    return sorted(rest, key=lambda axis: "TZCS".find(axis))


def merged(
    axes: str, shape: Sequence[int], name: str, select: str
) -> tuple[str, list[str]]:
    """What a choice merges: (how, the choice of each plane of it).

    ("", [select]) where nothing is merged. Raises ImageError where two axes
    are to be merged, each in its way.
    """
    wanted = _wanted(axes, shape, name, select)
    kinds = {choice.merged for choice in wanted.values() if choice.merged}
    if not kinds:
        return "", [select]
    if len(kinds) > 1:
        raise images.ImageError(
            f"{name}: select={select!r}: max and mean together; choose one"
        )
    each = []
    for axis, choice in wanted.items():
        entries = choice.entries or range(shape[axes.index(axis)])
        singly = [f"{axis}={i}" for i in entries]
        each.append(singly if choice.merged else [f"{axis}={choice}"])
    return kinds.pop(), [",".join(parts) for parts in itertools.product(*each)]


def take(array: np.ndarray, index: Index) -> np.ndarray:
    """The part of an array that an index of `choose` means, axis by axis."""
    for axis, part in enumerate(index):
        if isinstance(part, list):
            array = array.take(part, axis)
    return array[
        tuple(slice(None) if isinstance(part, list) else part for part in index)
    ]


def positions(part: int | slice | list[int], length: int) -> Sequence[int]:
    """The entries of an axis that a part of an index means."""
    if isinstance(part, slice):
        return range(length)
    return part if isinstance(part, list) else [part]


def n_taken(shape: Sequence[int], index: Index) -> int:
    """How many values `take` gives of an array of this shape."""
    return math.prod(
        len(positions(part, length))
        for part, length in zip(index, shape, strict=True)
    )


def channels_last(pixels: np.ndarray, axes: str) -> np.ndarray:
    """[H, W, C] (C from 1) of pixels with axes Y, X and any of C and S."""
    channels = [axis for axis in axes if axis in CHANNELS]
    order = [axes.index(axis) for axis in ("Y", "X", *channels)]
    pixels = pixels.transpose(order)
    return pixels.reshape(*pixels.shape[:2], -1)
