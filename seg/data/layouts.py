"""How data sets lie on disk: files -> samples.

A layout is a function from a tree of files to pairs of image and masks, and
the defects it met. Each takes a folder or a zip, and any folders around it.

dsb2018: `ID/images/ID.png` and `ID/masks/*.png`, one mask a nucleus. Grouped
    by `siblings`, as the set does not say which images belong together.
stardist: `{train,test}/{images,masks}/NAME.tif`, object ids. Published split:
    the test folder tests, the train folder is split by `split.stardist_split`.
folders: images and masks matched by their paths, see `folders`; published
    split where there are folders for it; grouped by subfolder, where there are
    three or more.
synthetic: drawn, see `synthetic`.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import numpy as np

from seg import config as config_lib
from seg import images
from seg.data import files, folders, pairs, places, siblings, split, synthetic
from seg.data.pairs import Defect, Pair
from seg.images import read

Found = tuple[list[Pair], list[Defect]]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One labelled image.

    id: unique. group: images of one source share it. split: train, val, test,
    or "" where `split.assign` is to decide.
    load: gives `image` [H, W, C] as stored, with C = model.in_channels,
        `classes` uint8 [H, W] (255 not annotated), `labels` int32 [H, W],
        `overlap_px` (pixels that several masks claimed); raises ImageError.
    """

    id: str
    group: str
    split: str
    load: Callable[[], dict[str, Any]]


def _dsb2018(tree: files.Tree) -> Found:
    images = collections.defaultdict(list)
    masks = collections.defaultdict(list)
    for name in filter(files.is_image, tree.names):
        folder, _, kind = name.rpartition("/")[0].rpartition("/")
        if kind in ("images", "masks"):
            (images if kind == "images" else masks)[folder].append(name)
    found, defects = [], []
    ids: dict[str, str] = {}
    for folder in sorted(images.keys() | masks.keys()):
        first = ids.setdefault(folder.rpartition("/")[2], folder)
        if not images[folder]:
            what, remedy = "masks, but no image", "add images/*.png"
        elif len(images[folder]) > 1:
            what = f"{len(images[folder])} images in one folder"
            remedy = "keep one"
        elif not masks[folder] and f"{folder}/masks" not in tree.folders:
            what, remedy = "an image without masks", "add masks/*.png"
        elif first != folder:
            what, remedy = f"the same id as {first}", "rename one of them"
        else:
            name = folder.rpartition("/")[2]
            found.append(
                Pair(name, images[folder][0], tuple(masks[folder]), "objects")
            )
            continue
        defects.append(Defect(folder, what, remedy))
    return found, defects


def _stardist(tree: files.Tree) -> Found:
    found, defects = folders.find(tree)
    names = [pair.id for pair in found]
    for name in sorted(
        k for k, n in collections.Counter(names).items() if n > 1
    ):
        defects.append(
            Defect(name, "in two splits", "remove it from one of them")
        )
    found = [pair._replace(kind="ids") for pair in found]
    if {pair.split for pair in found} == {"train", "test"}:
        halves = split.stardist_split(p.id for p in found if p.split == "train")
        found = [
            p._replace(split=halves[p.id]) if p.split == "train" else p
            for p in found
        ]
    return found, defects


def _folders(tree: files.Tree) -> Found:
    found, defects = folders.find(tree)
    if len({pair.id for pair in found}) < len(found):
        # 1.png to train and another 1.png to test
        found = [p._replace(id=f"{p.split}/{p.id}") for p in found]
    return found, defects


FINDERS: dict[str, Callable[[files.Tree], Found]] = {
    "dsb2018": _dsb2018,
    "stardist": _stardist,
    "folders": _folders,
}


_WANTS = {
    "dsb2018": "ID/images/ID.png and ID/masks/*.png",
    "stardist": "train/images/*.tif, train/masks/*.tif and the same in test/",
    "folders": "images/ and masks/, or train/inputs/ and train/masks/, with "
    "equal stems",
}


def scan(config: config_lib.Config, progress: bool = False) -> list[Sample]:
    """The samples of a config, sorted by id, none of them read but for groups.

    progress: show how far that reading is, as `places.progress`.

    Raises UserError where the files are not as the layout wants them.
    """
    layout = config.data.layout
    if layout not in LAYOUTS:
        raise config_lib.ConfigError(
            config_lib.unknown("data.layout", layout, LAYOUTS)
        )
    found = LAYOUTS[layout](config, progress)
    return sorted(found, key=lambda sample: sample.id)


def _from_files(config: config_lib.Config, progress: bool) -> list[Sample]:
    data = config.data
    tree = files.open_tree(data.path)
    found, defects = FINDERS[data.layout](tree)
    if defects:
        raise config_lib.UserError(
            f"{defects[0]} ({len(defects)} such defects in {data.path}; seg "
            "verify lists all)"
        )
    if not found:
        raise config_lib.UserError(str(_nothing(data)))
    if data.split == "group":
        found = [pair._replace(split="") for pair in found]
    groups = _groups(tree, found, data, progress)
    samples = [
        Sample(
            pair.id,
            groups[pair.id],
            pair.split,
            functools.partial(pairs.load, tree, pair, config),
        )
        for pair in found
    ]
    if not {pair.split for pair in found} - {"", "train"}:
        return [dataclasses.replace(s, split="") for s in samples]
    chosen = split.assign(
        samples, data.val_frac, data.test_frac, data.split_seed
    )
    return [dataclasses.replace(s, split=chosen[s.id]) for s in samples]


def _nothing(data: config_lib.Data) -> Defect:
    what = f"no labelled images for data.layout={data.layout}"
    return Defect(data.path, what, f"it wants {_WANTS[data.layout]}")


def _groups(
    tree: files.Tree,
    found: list[Pair],
    data: config_lib.Data,
    progress: bool,
) -> dict[str, str]:
    published = any(pair.split for pair in found)
    if data.layout == "dsb2018" or (
        data.layout == "stardist" and not published
    ):
        with places.progress(len(found), progress, "grouped") as advance:

            def read_images() -> Iterator[tuple[str, np.ndarray]]:
                for p in found:
                    name = p.image
                    yield p.id, read.read_image(tree.read(name), name=name)
                    advance()

            return siblings.groups(read_images())
    own = {pair.id: pair.id for pair in found}
    folder = {pair.id: pair.id.rpartition("/")[0] for pair in found}
    if not published and len(set(folder.values())) >= 3:
        own = folder
    # files that are equal are one source, whatever their names
    first: dict[tuple[int, int], str] = {}
    sizes = collections.Counter(tree.size(pair.image) for pair in found)
    for pair in found:
        size = tree.size(pair.image)
        if sizes[size] > 1:
            key = (size, tree.crc(pair.image))
            own[pair.id] = first.setdefault(key, own[pair.id])
    return own


def _synthetic(config: config_lib.Config, progress: bool) -> list[Sample]:
    spec = config.synthetic
    counts = {"train": spec.n_train, "val": spec.n_val, "test": spec.n_test}
    names = [name for name, n in counts.items() for _ in range(n)]
    published = config.data.split != "group"
    return [
        Sample(
            f"{spec.kind}-{i:05d}",
            f"{spec.kind}-{i:05d}",
            name if published else "",
            functools.partial(_drawn, config, i),
        )
        for i, name in enumerate(names)
    ]


def _drawn(config: config_lib.Config, index: int) -> dict[str, Any]:
    found = synthetic.draw(config.synthetic, index)
    image = read.as_channels(found["image"], config.model.in_channels)
    return {**found, "image": image, "overlap_px": 0}


LAYOUTS: dict[str, Callable[[config_lib.Config, bool], list[Sample]]] = {
    **dict.fromkeys(FINDERS, _from_files),
    "synthetic": _synthetic,
}


def verify(config: config_lib.Config, progress: bool = False) -> list[Defect]:
    """All that is wrong with the files of a config; reads every one of them.

    progress: show how far it is, as `places.progress`.

    Raises UserError where data.path cannot be opened at all.
    """
    if config.data.layout == "synthetic":
        return []
    tree = files.open_tree(config.data.path)
    found, defects = FINDERS[config.data.layout](tree)
    if not found and not defects:
        return [_nothing(config.data)]

    def examine(pair: Pair) -> list[Defect]:
        return pairs.examine(tree, pair, config)[1]

    # decoders let go of the interpreter's lock: threads help
    with (
        places.progress(len(found), progress, "checked") as advance,
        futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for more in pool.map(examine, found):
            defects += more
            advance()
    if config.data.split != "group":
        defects += _leaks(tree, found)
    return sorted(set(defects))


def _leaks(tree: files.Tree, found: list[Pair]) -> Iterator[Defect]:
    """Equal images in two of the published splits."""
    first: dict[tuple[int, int], Pair] = {}
    for pair in found:
        try:
            key = (tree.size(pair.image), tree.crc(pair.image))
        except images.ImageError:  # a defect that is listed already
            continue
        other = first.setdefault(key, pair)
        if other.split != pair.split:
            yield Defect(
                pair.image,
                f"the same image as {other.image}, of another split",
                "remove it from one of them",
            )


def source_stamp(config: config_lib.Config) -> str:
    """Changes whenever raw files are written; see `files.stamp`."""
    if config.data.layout == "synthetic":
        return source_digest(config)
    return files.stamp(files.open_tree(config.data.path))


def source_digest(config: config_lib.Config, progress: bool = False) -> str:
    """sha256 of what the records are made from.

    Of files: their names and contents, see `files.digest`. Of drawn data: the
    knobs, and a small image that is drawn with them, so that a change of the
    drawing is seen as well.

    progress: show how far it is, as `places.progress`.
    """
    if config.data.layout != "synthetic":
        tree = files.open_tree(config.data.path)
        n_files = sum(map(files.is_image, tree.names))
        # a zip lists the sums of its files: that takes no time
        shown = progress and isinstance(tree, files.Folder)
        with places.progress(n_files, shown, "read", "file") as advance:
            return files.digest(tree, advance)
    spec = config.synthetic
    small = dataclasses.replace(
        spec,
        height=min(spec.height, 64),
        width=min(spec.width, 64),
        n_objects=min(spec.n_objects, 4),
    )
    total = hashlib.sha256(json.dumps(dataclasses.asdict(spec)).encode())
    for _, array in sorted(synthetic.draw(small, 0).items()):
        total.update(array.tobytes())
    return total.hexdigest()
