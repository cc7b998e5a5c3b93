"""Plain folders: which files are images, which masks, and which go together.

What a file is stands in the names of its folders, anywhere in its path and in
any order: a word for images (`images`, `inputs`, `raw`, `src` ...) or masks
(`masks`, `labels`, `gt`, `targets` ...), and a word for a split (`train`,
`val`, `test` ...). A folder counts only if it is made of such words and names
of formats, as `masks_gt_png` or `train_images`; other folders, as `plate7`,
are part of the name. So these all work, and zips of them:

    images/a.png             masks/a.png
    train/inputs/a.png       train/masks/a.tif
    images/val/plate7/a.jpg  masks/val/plate7/a_mask.png
    a.tif                    a_masks.tif
    set1/raw.tif             set1/instances_ids.png
    src/a.jpg                label/a.npy

An image and its mask have the same path but for these words, and the same
stem; a stem may end in such a word where there is no exact partner. A mask may
be a `.npy` array, see `arrays`. The order of files plays no part. Where some
folders have such names, files in others count only as pairs, like those of
`set1` above: a figure beside the data is no image without a mask.
"""

import collections
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from seg.data import arrays, files
from seg.data.pairs import Defect, Pair

_IMAGES = {"image", "images", "img", "imgs", "input", "inputs", "raw", "src"}
_MASKS = {
    *("mask", "masks", "label", "labels", "target", "targets", "gt", "truth"),
    *("groundtruth", "annotation", "annotations", "instance", "instances"),
    *("seg", "segmentation", "segmentations", "ids", "cp"),
}
_SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FORMATS = {"png", "jpg", "jpeg", "tif", "tiff", "bmp", "webp"}
_KNOWN = _IMAGES | _MASKS | _SPLITS.keys() | _FORMATS
_OTHER_IMAGES = (
    *(".gif", ".npy", ".npz", ".jp2", ".heic", ".psd", ".svs"),
    *(".czi", ".nd2", ".lif", ".ndpi", ".dcm", ".nii", ".h5", ".zarr"),
)


class Place(NamedTuple):
    """What the name of a file says: role is image, mask or ""."""

    role: str
    split: str
    rest: tuple[str, ...]
    stem: str


def find(tree: files.Tree) -> tuple[list[Pair], list[Defect]]:
    """Pairs by path and stem, in the order of the images' names."""
    places = {name: place(name) for name in tree.names}
    by_folder = any(at.role for at in places.values())
    # by key: split, folders without known words, and whether those have none
    roles: dict[str, dict[tuple, dict[str, list[str]]]] = {
        role: collections.defaultdict(lambda: collections.defaultdict(list))
        for role in ("image", "mask")
    }
    defects = []
    for name, at in places.items():
        beside = by_folder and not at.role
        role = at.role or _role_of_stem(at.stem)
        array = role == "mask" and name.lower().endswith(arrays.SUFFIX)
        if files.is_image(name) or array:
            roles[role][at.split, at.rest, beside][at.stem].append(name)
        elif name.lower().endswith(_OTHER_IMAGES) and not beside:
            defects.append(
                Defect(name, "not of a format read here", "save it as TIFF")
            )
    found = []
    for key in sorted(roles["image"].keys() | roles["mask"].keys()):
        pairs, more = _match(key, roles["image"][key], roles["mask"][key])
        found += pairs
        defects += [] if key[-1] else more
    found = named(found, places)
    return found, defects + list(same_ids(found))


def place(name: str) -> Place:
    """What the path of a file says."""
    path = pathlib.PurePosixPath(name)
    words: set[str] = set()
    rest = []
    for folder in path.parent.parts:
        of_folder = _words(folder)
        if of_folder and of_folder <= _KNOWN:
            words |= of_folder
        else:
            rest.append(folder)
    role = "mask" if words & _MASKS else "image" if words & _IMAGES else ""
    split = next((_SPLITS[word] for word in sorted(words & _SPLITS.keys())), "")
    return Place(role, split, tuple(rest), path.stem)


def _words(text: str) -> set[str]:
    return set(filter(None, re.split(r"[^a-z0-9]+", text.lower())))


def _role_of_stem(stem: str) -> str:
    last = re.split(r"[^a-z0-9]+", stem.lower())[-1]
    return "mask" if last in _MASKS else "image"


def _bare(stem: str) -> str:
    """The stem without the words at its end that only say what it is."""
    parts = re.split(r"([^A-Za-z0-9]+)", stem)
    while parts and (
        not re.search("[A-Za-z0-9]", parts[-1])
        or parts[-1].lower() in _IMAGES | _MASKS
    ):
        parts.pop()
    return "".join(parts)


def _match(
    key: tuple[str, tuple[str, ...], bool],
    images: dict[str, list[str]],
    masks: dict[str, list[str]],
) -> tuple[list[Pair], list[Defect]]:
    """Pairs inside of one folder of images and its folder of masks."""
    defects = []
    for names in (*images.values(), *masks.values()):
        for name in names[1:]:
            defects.append(
                Defect(name, f"the same stem as {names[0]}", "rename one")
            )
    partners = {stem: masks[stem] for stem in images.keys() & masks.keys()}
    loose = {_bare(stem): stem for stem in masks.keys() - partners.keys()}
    for stem in sorted(images.keys() - partners.keys()):
        partner = loose.pop(_bare(stem), None)
        if partner is None:
            defects.append(
                Defect(
                    images[stem][0],
                    "an image without a mask",
                    f"add a mask with the stem {stem}, or remove it",
                )
            )
        else:
            partners[stem] = masks[partner]
    used = {name for names in partners.values() for name in names}
    for stem in sorted(masks):
        if masks[stem][0] not in used:
            defects.append(
                Defect(
                    masks[stem][0],
                    "a mask without an image",
                    f"add an image with the stem {stem}, or remove it",
                )
            )
    pairs = [
        Pair("", images[stem][0], (partners[stem][0],), "values", key[0])
        for stem in sorted(partners)
    ]
    return pairs, defects


def named(found: list[Pair], places: dict[str, Place]) -> list[Pair]:
    """With ids: the path without what all have, and without known words."""
    rests = [places[pair.image].rest for pair in found]
    shared = 0
    if rests:
        low, high = min(rests), max(rests)
        while shared < len(low) and low[: shared + 1] == high[: shared + 1]:
            shared += 1
    named = []
    for pair, rest in zip(found, rests, strict=True):
        stem = places[pair.image].stem
        same = stem == places[pair.masks[0]].stem
        parts = [*rest[shared:], stem if same else _bare(stem)]
        named.append(pair._replace(id="/".join(filter(None, parts)) or stem))
    return named


def same_ids(found: list[Pair]) -> Iterator[Defect]:
    """Two images of one id and split."""
    first: dict[tuple[str, str], str] = {}
    for pair in found:
        other = first.setdefault((pair.split, pair.id), pair.image)
        if other != pair.image:
            yield Defect(pair.image, f"the same id as {other}", "rename one")
