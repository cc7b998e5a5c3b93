"""Which images are of one source, so that no split may separate them."""

import collections
from collections.abc import Callable, Iterator

import numpy as np

from seg import config as config_lib
from seg import images
from seg.data import files, pairs, places, siblings, split
from seg.data.pairs import Defect, Pair


def find(
    tree: files.Tree,
    found: list[Pair],
    data: config_lib.Data,
    *,
    look: Callable[[str, np.ndarray], None] | None = None,
    progress: bool = False,
) -> dict[str, str]:
    """The group of each id.

    found: with their published splits, also where those are given up.
    look: is shown the id and the image [H, W, C] of every pair. Without it,
        images are read only where groups are found by their pixels.
    progress: show how far the reading is, as `places.progress`.
    """
    # a folder for the training alone is split like any other
    fixed = {pair.split for pair in found} - {"", "train"}
    published = bool(fixed) and data.split not in split.ANEW
    by_pixels = data.layout == "dsb2018" or (
        data.layout == "stardist" and not published
    )
    if not by_pixels and look is None:
        return _by_name(tree, found, published)
    with places.progress(len(found), progress, "grouped") as advance:

        def read_images() -> Iterator[tuple[str, np.ndarray]]:
            for pair in found:
                image = pairs.read_image(tree, pair)
                if look is not None:
                    look(pair.id, image)
                yield pair.id, image
                advance()

        if by_pixels:
            return siblings.groups(read_images())
        collections.deque(read_images(), maxlen=0)  # each is looked at
    return _by_name(tree, found, published)


def _by_name(
    tree: files.Tree, found: list[Pair], published: bool
) -> dict[str, str]:
    """Subfolders, where there are three or more; files that are equal."""
    own = {pair.id: pair.id for pair in found}
    # the split is in ids that would be equal without it: that is no folder
    bare = {p.id: p.id.removeprefix(f"{p.split}/") for p in found}
    folder = {name: rest.rpartition("/")[0] for name, rest in bare.items()}
    if not published and len(set(folder.values())) >= 3:
        own = folder
    # files that are equal are one source, whatever their names
    first: dict[tuple[int, int], str] = {}
    sizes = collections.Counter(tree.size(pair.image) for pair in found)
    # the size of an embedded one is not that of its file: all are read then
    embedded = any(pair.embedded for pair in found)
    for pair in found:
        if embedded or sizes[tree.size(pair.image)] > 1:
            key = pairs.mark(tree, pair)
            own[pair.id] = first.setdefault(key, own[pair.id])
    return own


def leaks(tree: files.Tree, found: list[Pair]) -> Iterator[Defect]:
    """Equal images in two of the published splits."""
    first: dict[tuple[int, int], Pair] = {}
    for pair in found:
        try:
            key = pairs.mark(tree, pair)
        except images.ImageError:  # a defect that is listed already
            continue
        other = first.setdefault(key, pair)
        if other.split != pair.split:
            yield Defect(
                pair.image,
                f"the same image as {other.image}, of another split",
                "remove it from one of them",
            )
