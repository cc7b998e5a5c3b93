"""Layouts -> prepared records on disk: a TFDS data set in ArrayRecord files.

`prepare` writes `<data.dir>/<layout>/<digest>/`, whole or not at all: the
records under `segmentation/<version>/` (any TFDS reader opens them with
`tfds.builder_from_directory`) and `split.json`, which lists ids, groups and
shapes by split, the overlaps that data.overlaps resolved, the digest of the
raw files and the config. The digest covers
the raw files and each knob that changes a record, so changed raw data are
another folder and never meant silently. `open` finds the folder again.

Statistics are measured on the image in its own dtype; then all images of a
data set are stored in the widest of their dtypes, values unchanged.

TFDS writes and reads these files without TensorFlow, which saves its import.
"""

import contextlib
import dataclasses
import functools
import io
import json
import logging
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import gcs_utils

from seg import config as config_lib
from seg import normalize
from seg.data import layouts, pieces, places, records, split
from seg.images import read

gcs_utils._is_gcs_disabled = True  # the network is not asked, ever

_log = logging.getLogger(__name__)

_INDEX = "split.json"
_Index = dict[str, list[dict[str, Any]]]  # of each split: id, group, shape
_DAMAGED = "{} is damaged; delete it and run launch.prepare again"


class Segmentation(tfds.core.GeneratorBasedBuilder):
    """Whole labelled images with statistics, classes and instance labels.

    Parameters
    ----------
    generators : for each split, a function that yields records in order.
    dtype, channels : of every image.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        generators: dict[str, Callable[[], Iterable[records.Record]]],
        dtype: np.dtype,
        channels: int,
        data_dir: str,
    ):
        self._generators = generators
        self._dtype, self._channels = dtype, channels
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        def packed(*shape: int | None, dtype: Any) -> tfds.features.Tensor:
            return tfds.features.Tensor(
                shape=shape, dtype=np.dtype(dtype), encoding="zlib"
            )

        columns = len(normalize.COLUMNS)
        return self.dataset_info_from_configs(
            description=self.__doc__,
            disable_shuffling=True,  # positions are those of split.json
            features=tfds.features.FeaturesDict(
                {
                    "image": packed(
                        None, None, self._channels, dtype=self._dtype
                    ),
                    "stats": packed(self._channels, columns, dtype=np.float32),
                    "classes": packed(None, None, dtype=np.uint8),
                    # 0 x 0 where the objects are not known
                    "labels": packed(None, None, dtype=np.int32),
                    "id": tfds.features.Text(),
                    "group": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {
            name: self._generate_examples(generate)
            for name, generate in self._generators.items()
        }

    def _generate_examples(
        self, generate: Callable[[], Iterable[records.Record]]
    ) -> Iterator[tuple[int, records.Record]]:
        yield from enumerate(generate())


class DefectsError(config_lib.UserError):
    """Raw files that cannot be prepared; `defects` has all of them."""

    def __init__(self, path: str, defects: list[layouts.Defect]):
        super().__init__(f"{len(defects)} defects in {path}, as {defects[0]}")
        self.defects = defects


class _WiderError(Exception):
    """An image does not fit the dtype that was assumed."""

    def __init__(self, dtype: np.dtype):
        super().__init__(dtype)
        self.dtype = dtype


def prepare(
    config: config_lib.Config, progress: bool = True
) -> records.Records:
    """Prepares the records of a config, unless that is done already.

    Safe to kill and to run again; a second process waits for the first.

    Parameters
    ----------
    progress : show a bar on a terminal, else lines.

    Raises
    ------
    DefectsError : the raw files are not as the layout wants them.
    UserError : a group is in two splits, or data.dir cannot be written.
    """
    places.check_archive(config.data)
    stamp = layouts.source_stamp(config)
    source = layouts.source_digest(config, progress)
    folder = places.folder(config, source)
    if (folder / _INDEX).is_file():
        return _finished(folder, config, progress, "already prepared")
    if defects := layouts.verify(config, progress):
        raise DefectsError(config.data.path, defects)
    with places.alone(folder.parent, progress):
        if not (folder / _INDEX).is_file():
            _build(config, source, stamp, folder, progress)
    return _finished(folder, config, progress, "prepared")


def _finished(
    folder: pathlib.Path, config: config_lib.Config, progress: bool, what: str
) -> records.Records:
    """Opens the folder, and says what there is to know of it."""
    places.say(progress, f"{what} in {folder}")
    overlaps = _index(folder).get("overlaps")  # older ones did not count them
    if overlaps and overlaps["images"]:
        places.say(
            progress,
            "masks of objects overlapped in {px} px of {images} images, "
            "resolved by data.overlaps={policy}".format(
                **overlaps, policy=config.data.overlaps
            ),
        )
    return _open(folder, config)


def open(config: config_lib.Config) -> records.Records:
    """The prepared records of a config.

    Raises UserError where they are not prepared, or the raw files have changed
    since. Raw files that are gone (a copy of data.dir alone) are no change.
    """
    root = pathlib.Path(config.data.dir) / config.data.layout
    before = {
        path.parent: about
        for path in sorted(root.glob(f"*/{_INDEX}"))
        if places.same_setup(about := _index(path.parent), config)
    }
    raw = config.data.path
    if raw and not pathlib.Path(raw).exists() and len(before) == 1:
        return _open(*before, config)
    stamp = layouts.source_stamp(config)
    for folder, about in before.items():
        if about.get("stamp") == stamp:  # spares reading every raw file
            return _open(folder, config)
    folder = places.folder(config, layouts.source_digest(config))
    if (folder / _INDEX).is_file():
        return _open(folder, config)
    what = "has changed since it was prepared" if before else "is not prepared"
    raise config_lib.UserError(
        f"data.layout={config.data.layout} data.path={raw} {what} (nothing at "
        f"{folder}); run python -m launch.prepare with the same flags"
    )


def _build(
    config: config_lib.Config,
    source: str,
    stamp: str,
    folder: pathlib.Path,
    progress: bool,
) -> None:
    samples = layouts.scan(config, progress)
    splits = _by_split(samples, config)
    for left in folder.parent.glob(".*.partial"):  # by a killed preparation
        shutil.rmtree(left)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        index, overlaps = _write_widening(config, splits, partial, progress)
        about = {
            "digest": folder.name,
            "source": source,
            "stamp": stamp,
            "splits": index,
            "overlaps": overlaps,
            "config": records.stored(config),
        }
        (partial / _INDEX).write_text(json.dumps(about, indent=1))
        os.replace(partial, folder)
    except (OSError, RuntimeError) as error:
        # ArrayRecord's own words for a disk that refuses
        if isinstance(error, RuntimeError) and "write() failed" not in str(
            error
        ):
            raise
        raise config_lib.UserError(
            f"cannot write {folder}: {error}; free some space, or choose "
            "another data.dir"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_widening(
    config: config_lib.Config,
    splits: dict[str, list[layouts.Sample]],
    partial: pathlib.Path,
    progress: bool,
) -> tuple[_Index, dict[str, int]]:
    """`_write` in the narrowest dtype that holds every image."""
    dtype = np.dtype(np.uint8)
    while True:  # at most three times: uint8, uint16, float32
        try:
            return _write(config, splits, dtype, partial, progress)
        except _WiderError as wider:
            dtype = wider.dtype
            shutil.rmtree(partial)


def _by_split(
    samples: list[layouts.Sample], config: config_lib.Config
) -> dict[str, list[layouts.Sample]]:
    """The samples of each split, in order, no group in two of them."""
    data = config.data
    if data.split in split.ANEW:  # whatever was published
        samples = [dataclasses.replace(s, split="") for s in samples]
    strata = {s.group: s.stratum for s in samples}
    assigned = split.assign(
        samples,
        data.val_frac,
        data.test_frac,
        data.split_seed,
        strata=strata if data.split == "clusters" else None,
    )
    split.check_leaks(samples, assigned)
    return {
        name: [sample for sample in samples if assigned[sample.id] == name]
        for name in records.SPLITS
    }


def _write(
    config: config_lib.Config,
    splits: dict[str, list[layouts.Sample]],
    dtype: np.dtype,
    partial: pathlib.Path,
    progress: bool,
) -> tuple[_Index, dict[str, int]]:
    """Writes the TFDS files into a folder.

    Returns the index of the splits, and how many px of how many images
    overlapped.
    """
    index: _Index = {name: [] for name in splits}
    overlaps = {"px": 0, "images": 0}
    n_samples = sum(map(len, splits.values()))
    with places.progress(n_samples, progress) as advance:

        def generate(name: str) -> Iterator[records.Record]:
            for sample in splits[name]:
                found = sample.load()
                overlaps["px"] += found["overlap_px"]
                overlaps["images"] += found["overlap_px"] > 0
                record = _record(sample, found, config.model.in_channels, dtype)
                shape = record["classes"].shape
                index[name].append(
                    {"id": sample.id, "group": sample.group, "shape": shape}
                )
                yield record
                advance()

        builder = Segmentation(
            generators={
                name: functools.partial(generate, name)
                for name, members in splits.items()
                if members
            },
            dtype=dtype,
            channels=config.model.in_channels,
            data_dir=os.fspath(partial),
        )
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # it talks of downloads
            builder.download_and_prepare()
    shutil.rmtree(partial / "downloads", ignore_errors=True)
    return index, overlaps


def _record(
    sample: layouts.Sample,
    found: dict[str, Any],
    channels: int,
    dtype: np.dtype,
) -> records.Record:
    """What is stored of a sample. Raises _WiderError if dtype is too small."""
    image = read.as_channels(found["image"], channels)
    if np.promote_types(image.dtype, dtype) != dtype:
        raise _WiderError(np.promote_types(image.dtype, dtype))
    labels = found["labels"]
    if labels is None:
        labels = np.zeros((0, 0), np.int32)
    return {
        "image": image.astype(dtype),
        "stats": found["stats"]
        if "stats" in found
        else normalize.measure(image),
        "classes": found["classes"],
        "labels": labels.astype(np.int32),
        "id": sample.id,
        "group": sample.group,
    }


def _index(folder: pathlib.Path) -> dict[str, Any]:
    """What split.json says. Raises UserError where it is damaged."""
    try:
        about = json.loads((folder / _INDEX).read_text())
        about["splits"], about["digest"], about["config"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise config_lib.UserError(
            f"{_DAMAGED.format(folder)} ({_INDEX}: {error})"
        ) from error
    return about


def _open(folder: pathlib.Path, config: config_lib.Config) -> records.Records:
    if config.data.split == "tiles":
        _log.warning(pieces.WARNING)
    about = _index(folder)
    index = about["splits"]
    version = folder / Segmentation.name / str(Segmentation.VERSION)
    damaged = _DAMAGED.format(folder)
    try:
        builder = tfds.builder_from_directory(os.fspath(version))
        sources = {
            name: builder.as_data_source(split=name)
            for name, members in index.items()
            if members
        }
    except (OSError, ValueError, KeyError) as error:
        raise config_lib.UserError(f"{damaged} ({error})") from error
    lock = threading.Lock()  # ArrayRecord's readers do not promise threads

    def read_one(name: str, i: int) -> records.Record:
        try:
            with lock:
                record = dict(sources[name][i])
        except (OSError, ValueError, RuntimeError, IndexError) as error:
            raise config_lib.UserError(
                f"record {i} of {name}: {damaged} ({error})"
            ) from error
        for key in ("id", "group"):
            record[key] = record[key].decode()
        if record["labels"].shape == (0, 0):
            record["labels"] = None
        return record

    return records.Records(
        index, about["digest"], read_one, config.data.cache_mib, config
    )
