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
labelme: `NAME.json` of LabelMe with its image, see `labelme`; splits and
    groups as of folders.
outlines: COCO's JSON, GeoJSON, ImageJ's ROIs or Kaggle's run lengths, of one
    image or of many, see `annotations`; splits and groups as of folders.
synthetic: drawn, see `synthetic`.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from seg import config as config_lib
from seg.data import (
    annotations,
    arrays,
    clusters,
    files,
    groups,
    labelme,
    pairs,
    pieces,
    places,
    split,
    synthetic,
)
from seg.data.finders import FINDERS
from seg.data.pairs import Defect, Pair
from seg.data.sample import Sample
from seg.images import read

_LOG = logging.getLogger(__name__)
_FEW = 16  # images that are looked at before they are prepared
_WANTS = {
    "dsb2018": "ID/images/ID.png and ID/masks/*.png",
    "stardist": "train/images/*.tif, train/masks/*.tif and the same in test/",
    "folders": "images/ and masks/, or train/inputs/ and train/masks/, with "
    "equal stems",
    "labelme": "NAME.json of LabelMe, beside NAME.png or with the image inside",
    "outlines": "NAME.geojson, NAME_rois.zip, a COCO JSON or a CSV of run "
    "lengths beside the images",
}
# files besides images that the records are made from
_ALSO = {
    "folders": (arrays.SUFFIX,),
    "labelme": (".json",),
    "outlines": annotations.OUTLINES,
}
NAMED = ("labelme", "outlines")  # what is drawn has the name of its class


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
    found = sorted(found, key=lambda sample: sample.id)
    if config.data.split == "tiles":
        return pieces.cut(found, config)
    return found


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
    features: dict[str, np.ndarray] = {}

    def look(name: str, image: np.ndarray) -> None:
        features[name] = clusters.features(image)

    by_likeness = data.split == "clusters"
    of = groups.find(
        tree,
        found,
        data,
        look=look if by_likeness else None,
        progress=progress,
    )
    if data.exclude:
        found = _without(found, of, data)
    if data.split == "images":
        of = {pair.id: pair.id for pair in found}
    strata = clusters.strata(features, of, data.split_seed)
    if data.split in split.ANEW:
        found = [pair._replace(split="") for pair in found]
    samples = [
        Sample(
            pair.id,
            of[pair.id],
            pair.split,
            functools.partial(pairs.load, tree, pair, config),
            functools.partial(pairs.image_shape, tree, pair),
            strata.get(of[pair.id], ""),
        )
        for pair in found
    ]
    if not {pair.split for pair in found} - {"", "train"}:
        return [dataclasses.replace(s, split="") for s in samples]
    chosen = split.assign(
        samples, data.val_frac, data.test_frac, data.split_seed
    )
    return [dataclasses.replace(s, split=chosen[s.id]) for s in samples]


def _without(
    found: Sequence[Pair], of: Mapping[str, str], data: config_lib.Data
) -> list[Pair]:
    """The images without those of data.exclude, and of their groups."""
    names = split.excluded(data.exclude)
    if not data.exclude_groups:
        of = {name: name for name in of}
    gone = {of[name] for name in names if name in of}
    if not gone:
        raise config_lib.UserError(
            f"data.exclude={data.exclude}: none of its {len(names)} ids is "
            f"in {data.path}; an id is {found[0].id}, for one"
        )
    if absent := sum(name not in of for name in names):
        _LOG.warning(
            "data.exclude=%s: %d of its %d ids are not in %s",
            data.exclude,
            absent,
            len(names),
            data.path,
        )
    left = [pair for pair in found if of[pair.id] not in gone]
    if not left:
        raise config_lib.UserError(
            f"data.exclude={data.exclude}: nothing is left of {data.path}"
        )
    return left


def _nothing(data: config_lib.Data) -> Defect:
    what = f"no labelled images for data.layout={data.layout}"
    return Defect(data.path, what, f"it wants {_WANTS[data.layout]}")


def _synthetic(config: config_lib.Config, progress: bool) -> list[Sample]:
    spec, data = config.synthetic, config.data
    if data.exclude:
        raise config_lib.ConfigError(
            f"data.exclude={data.exclude}, but drawn images are in nobody's "
            "test; leave it empty"
        )
    counts = {"train": spec.n_train, "val": spec.n_val, "test": spec.n_test}
    splits = [name for name, n in counts.items() for _ in range(n)]
    names = [f"{spec.kind}-{i:05d}" for i in range(len(splits))]
    strata: dict[str, str] = {}
    if data.split == "clusters":
        features = {
            name: clusters.features(synthetic.draw(spec, i)["image"])
            for i, name in enumerate(names)
        }
        strata = clusters.strata(
            features, dict(zip(names, names, strict=True)), data.split_seed
        )
    return [
        Sample(
            name,
            name,
            "" if data.split in split.ANEW else splits[i],
            functools.partial(_drawn, config, i),
            lambda: (spec.height, spec.width),
            strata.get(name, ""),
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
    if config.data.split not in split.ANEW:
        defects += groups.leaks(tree, found)
    return sorted(set(defects))


def guess(path: str) -> str:
    """The layout that the files have, without being told.

    Never stardist: its files lie as those of folders, which takes masks for
    object ids wherever they can be nothing else. Raises UserError where the
    path cannot be opened.
    """
    tree = files.open_tree(path)
    n_found = {
        layout: len(FINDERS[layout](tree)[0])
        for layout in ("folders", "dsb2018", "labelme", "outlines")
    }
    return max(n_found, key=n_found.__getitem__)


def n_channels(config: config_lib.Config) -> int:
    """Channels of the images: the most among a few of them.

    Raises UserError where there are no images, or one cannot be read.
    """
    tree = files.open_tree(config.data.path)
    found, _ = FINDERS[config.data.layout](tree)
    if not found:
        raise config_lib.UserError(str(_nothing(config.data)))
    few = found[:: -(-len(found) // _FEW)]
    return max(pairs.read_image(tree, pair).shape[2] for pair in few)


def drawn_names(config: config_lib.Config) -> list[str]:
    """The classes that drawn objects have, the most frequent first.

    Files that cannot be read are passed over: `verify` lists those.
    """
    tree = files.open_tree(config.data.path)
    found, _ = FINDERS[config.data.layout](tree)
    names: collections.Counter[str] = collections.Counter()
    for pair in found:
        if pair.drawn:
            names.update(one.name for one in pair.drawn.objects or ())
            continue
        with contextlib.suppress(labelme.FormError):
            shapes = labelme.parse(tree.read(*pair.masks)).shapes
            names.update(s.label for s in shapes)
    for special in labelme.SPECIAL:
        del names[special]
    return [name for name, _ in names.most_common()]


def source_stamp(config: config_lib.Config) -> str:
    """Changes whenever raw files are written; see `files.stamp`."""
    if config.data.layout == "synthetic":
        return source_digest(config)
    tree = files.open_tree(config.data.path)
    return files.stamp(tree, _ALSO.get(config.data.layout, ()))


def source_digest(config: config_lib.Config, progress: bool = False) -> str:
    """sha256 of what the records are made from.

    Of files: their names and contents, see `files.digest`. Of drawn data: the
    knobs, and a small image that is drawn with them, so that a change of the
    drawing is seen as well.

    progress: show how far it is, as `places.progress`.
    """
    if config.data.layout != "synthetic":
        tree = files.open_tree(config.data.path)
        also = _ALSO.get(config.data.layout, ())
        n_files = len(files.read_of(tree, also))
        # a zip lists the sums of its files: that takes no time
        shown = progress and isinstance(tree, files.Folder)
        with places.progress(n_files, shown, "read", "file") as advance:
            return files.digest(tree, advance, also)
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
