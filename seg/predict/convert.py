"""Objects from files of any program into those of any other, and measured.

What `seg.data.annotations` reads becomes what a prediction would be, but for
probabilities, and so goes into every format that needs none. The ids of label
images stay, in labels, OME-Zarr, tables, the names of ROIs and of GeoJSON's
features; what holds no ids has the objects in their order.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seg import config as config_lib
from seg.data import annotations, arrays
from seg.images import about, formats, read, slide_zarr, write
from seg.predict import bulk, measures, originals, segmentation

_LOG = logging.getLogger(__name__)

Path = pathlib.Path

_WITHOUT_IDS = ("labelme", "coco", "rle")
_MOST = 1 << 24  # of 32 bits, beyond which Fiji's float32 mixes ids up

SUFFIXES = (
    *read.SUFFIXES, arrays.SUFFIX, ".json", ".geojson", ".zip", ".roi", ".csv"
)  # fmt: skip


def expand(inputs: Sequence[str]) -> list[Path]:
    """The files that files and folders name.

    Of a folder of results of seg the labels, else what holds objects.

    Raises UserError for one that names nothing.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text).expanduser()
        files = [path]
        if path.is_dir() and not slide_zarr.is_zarr(path):
            every = sorted(p for p in path.iterdir() if _is_readable(p))
            every = [
                p for p in every if not p.name.endswith(originals.NO_OBJECTS)
            ]
            labels = [p for p in every if p.stem.endswith("_labels")]
            files = labels or every
        if not files or not files[0].exists():
            raise config_lib.UserError(
                f"{text}: no such file, nor a folder with labels "
                f"({', '.join(SUFFIXES)}); check the path"
            )
        found |= dict.fromkeys(files)
    return list(found)


def _is_readable(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return path.suffix.lower() in SUFFIXES or slide_zarr.is_zarr(path)


def run(
    inputs: Sequence[Path],
    out: Path,
    names: Sequence[str],
    images: originals.Images,
    *,
    overlaps: str = "error",
    overwrite: bool = False,
) -> bulk.Outcome:
    """Converts files into a folder.

    Parameters
    ----------
    inputs : files, from `expand`.
    out : the folder; made where it is missing.
    names : keys of `formats.FORMATS`.
    images : for sizes, intensities and pictures.
    overlaps : as `annotations.read_all` takes it.
    overwrite : replace files that are there.

    Raises
    ------
    UserError
        where a format needs what there is none of, the folder cannot be
        written, or a file is there already.
    """
    forms = [formats.FORMATS[name] for name in names]
    for name, form in zip(names, forms, strict=True):
        if form.uses_map or form.of_images:
            raise config_lib.UserError(
                f"--formats={name} needs probabilities, which labels have "
                "none of; use seg predict"
            )
    shared = [form for form in forms if form.is_shared]
    job = _Job(out, names, images, overwrite)
    for form in shared:
        job.check(out / form.name)
    outcome = bulk.Outcome()
    for path in inputs:
        try:
            sources = annotations.read_all(path)
        except (config_lib.UserError, MemoryError) as error:
            outcome.failures.append((path, str(error) or "not enough memory"))
            continue
        for source in sources:
            try:
                name = images.of(source, len(inputs) == len(sources) == 1)
                one = source._replace(image=name).read(images.size, overlaps)
                job.write(path, one._replace(image=name))
            except (write.WriteError, _ThereError):
                raise
            except (config_lib.UserError, OSError, MemoryError) as error:
                reason = str(error) or "not enough memory"
                outcome.failures.append((path, reason))
            else:
                outcome.n_done += 1
    if outcome.n_done:
        for form in shared:
            made = job.parts[form.name] if form.part else job.rows()
            form.write(out / form.name, made)
    if outcome.failures:  # what seg predict has put there stays else
        bulk.write_failures(out, outcome.failures)
    return outcome


class _ThereError(config_lib.UserError):
    """A file is there already."""


class _Job:
    """Writes one labelled image after another; keeps what is for all."""

    def __init__(
        self,
        out: Path,
        names: Sequence[str],
        images: originals.Images,
        overwrite: bool,
    ):
        self._out = out
        self._forms = forms = [formats.FORMATS[name] for name in names]
        self._without_ids = [name for name in names if name in _WITHOUT_IDS]
        self._images, self._overwrite = images, overwrite
        self._tables: dict[str, segmentation.Table] = {}
        self._kinds: dict[str, int] = {}  # classes, of all images alike
        self.parts: dict[str, list[tuple[str, Any]]] = {
            form.name: [] for form in forms if form.part
        }

    def check(self, path: Path) -> None:
        """Raises UserError for a file that is there."""
        if path.exists() and not self._overwrite:
            raise _ThereError(
                f"{path} is there already; give --overwrite, or another --out"
            )

    def write(self, path: Path, one: annotations.Labelled) -> None:
        """The files of an image."""
        image = self._images.find(one.image)
        stem = image.stem if image else annotations.stem_of(one.image)
        if stem in self._tables:
            raise config_lib.UserError(
                f"{path}: the second file of image {stem!r}; convert it into "
                "another folder"
            )
        pixels = self._images.read(one.image, one.labels.shape)
        annotations.check_classes([*self._kinds, *one.names], str(path))
        for name in one.names:
            self._kinds.setdefault(name, len(self._kinds) + 1)
        file = image.path if image else None
        source = os.path.relpath(file, self._out) if file else one.image
        found = segmented(one, pixels, stem, source, self._kinds)
        found = found.measured(_pixel_size(file, path))
        found = self._with_ids(found, one.ids, path)
        parts = {}
        for form in self._forms:
            if form.uses_image and pixels is None:
                raise config_lib.UserError(
                    f"{path}: {form.name.format(stem=stem)} shows the image; "
                    "give --images=DIR"
                )
            if form.part:
                parts[form.name] = form.part(pixels, found)
            elif form.per_image:
                target = self._out / form.file(stem)
                self.check(target)
                form.write(target, pixels, found)
        for name, part in parts.items():  # once nothing can go wrong
            self.parts[name].append((stem, part))
        self._tables[stem] = found.table

    def _with_ids(
        self, found: segmentation.Segmentation, ids: np.ndarray, path: Path
    ) -> segmentation.Segmentation:
        """The same with the objects' ids in place of 1..N."""
        last = int(ids.max(initial=0))
        if last == len(ids):
            return found
        if last > _MOST:
            _LOG.warning(
                "%s: ids up to %d, of which %d are the most that every "
                "program reads; the objects are renumbered from 1, in order",
                path, last, _MOST,
            )  # fmt: skip
            return found
        if self._without_ids:
            _LOG.warning(
                "ids are not kept in %s, which hold none; the objects are in "
                "their order",
                " and ".join(self._without_ids),
            )
            self._without_ids = []  # said once
        rows = (
            {**row, "label": i}
            for row, i in zip(found.table, ids.tolist(), strict=True)
        )
        return dataclasses.replace(
            found,
            labels=np.array([0, *ids], np.int32)[found.labels],
            table=segmentation.Table(rows),
        )

    def rows(self) -> list[dict[str, Any]]:
        """Of all images, with the same keys."""
        rows = [row for table in self._tables.values() for row in table]
        empty = dict.fromkeys(key for row in rows for key in row)
        return [{**empty, **row} for row in rows]


def _pixel_size(*paths: Path | None) -> tuple[float, float] | None:
    """(row, column) in micrometres, of the first file that says it."""
    for path in filter(None, paths):
        try:
            size = about.read_about(path).pixel_size
        except config_lib.UserError:  # JSON, say
            continue
        if size:
            return size
    return None


def segmented(
    one: annotations.Labelled,
    pixels: np.ndarray | None,
    stem: str,
    source: str,
    kinds: Mapping[str, int],
) -> segmentation.Segmentation:
    """The objects of a labelled image, measured; without probabilities.

    pixels: [H, W, C], or None; stem: what the table calls the image; source:
    its file; kinds: the number of each class, from 1.
    """
    of = np.array([0, *(kinds[name] for name in one.names)], np.uint8)
    measured = measures.of_labels(one.labels, pixels, len(one.names))
    columns = {
        "image": np.full(len(one.names), stem, object),
        "label": np.arange(1, len(one.names) + 1),
        "class": np.array(one.names, object),
        **measures.columns(measured, one.labels.shape),
    }
    return segmentation.Segmentation(
        of[one.labels],
        one.labels,
        segmentation.Table(measures.rows(columns)),
        source=source,
    )
