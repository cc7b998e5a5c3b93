"""Samples -> the ArrayRecord files of a TFDS data set.

Statistics are measured on the image in its own dtype; then all images of a
data set are stored in the widest of their dtypes, values unchanged.
"""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import gcs_utils

from seg import config as config_lib
from seg import normalize
from seg.data import layouts, places, records, split, targets
from seg.images import read

gcs_utils._is_gcs_disabled = True  # the network is not asked, ever

Index = dict[str, list[dict[str, Any]]]  # of each split: id, group, shape


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


class _WiderError(Exception):
    """An image does not fit the dtype that was assumed."""

    def __init__(self, dtype: np.dtype):
        super().__init__(dtype)
        self.dtype = dtype


def write(
    config: config_lib.Config,
    samples: list[layouts.Sample],
    partial: pathlib.Path,
    progress: bool,
) -> tuple[Index, dict[str, int]]:
    """Writes the samples, split, in the narrowest dtype that holds each image.

    Returns the index of the splits, and how many px of how many images
    overlapped.
    """
    splits = _by_split(samples, config)
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
    if data.folds:
        assigned = split.fold(
            samples,
            assigned,
            data.folds,
            data.fold,
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
) -> tuple[Index, dict[str, int]]:
    """Writes the TFDS files into a folder; returns what `write` does."""
    index: Index = {name: [] for name in splits}
    overlaps = {"px": 0, "images": 0}
    n_samples = sum(map(len, splits.values()))
    with places.progress(n_samples, progress) as advance:

        def generate(name: str) -> Iterator[records.Record]:
            for sample in splits[name]:
                found = sample.load()
                overlaps["px"] += found["overlap_px"]
                overlaps["images"] += found["overlap_px"] > 0
                if config.data.rescale:
                    found |= targets.rescaled(found, config.data.rescale)
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
