"""Results as files: of one image, or of several in a zip."""

import dataclasses
import importlib.util
import pathlib
import re
import tempfile
import typing
import zipfile
from collections.abc import Iterable, Iterator, Sequence

from seg.images import formats
from seg.predict import physical, summary
from seg.serve import store

if typing.TYPE_CHECKING:
    from seg.predict import predictor

    Pair = tuple[store.Stored, "predictor.Segmentation"]

# What people call a format, and what it is for; the first ones first.
TITLES = {
    "csv": ("Table of objects", "CSV, opens in Excel, R and Python"),
    "overlay": ("Picture with outlines", "PNG"),
    "labels": ("Label image", "TIFF, each object's pixels hold its number"),
    "roi": ("ImageJ / Fiji ROIs", "ZIP for the ROI Manager"),
    "geojson": ("QuPath objects", "GeoJSON with measurements"),
    "parquet": ("Table of objects, typed", "Parquet, for Python and R"),
    "images": ("Table of images", "CSV, one row per image"),
    "boxes": ("Picture with boxes and numbers", "PNG"),
    "crops": ("Each object cut out", "ZIP of PNGs"),
    "classes": ("Class image", "PNG, each pixel holds its class"),
    "probabilities": ("Probability map", "TIFF, 32-bit"),
    "uncertainty": ("Uncertainty map", "TIFF, 32-bit"),
    "labelme": ("LabelMe polygons", "JSON, to correct by hand"),
    "coco": ("COCO annotations", "JSON"),
    "rle": ("Kaggle run lengths", "CSV"),
    "omezarr": ("OME-Zarr labels", "ZIP of a folder"),
}
_COMPRESSED = (".png", ".tif", ".zip")


@dataclasses.dataclass(frozen=True)
class File:
    """A file to send."""

    name: str
    content: bytes


def available() -> list[str]:
    """The formats that this installation writes."""

    def is_there(name: str) -> bool:
        needs = formats.FORMATS[name].needs
        return not needs or importlib.util.find_spec(needs[0]) is not None

    return list(filter(is_there, TITLES))


def one(pair: "Pair", name: str) -> File:
    """The file of a format of one image; a folder comes as a zip."""
    with tempfile.TemporaryDirectory(prefix="seg-") as folder:
        (path,) = _written([pair], [name], pathlib.Path(folder))
        if not path.is_dir():
            return File(path.name, path.read_bytes())
        archive = pathlib.Path(folder) / f"{path.name}.zip"
        with zipfile.ZipFile(archive, "w") as opened:
            _pack(opened, path, path.parent)
        return File(archive.name, archive.read_bytes())


def several(
    pairs: Iterable["Pair"], names: Sequence[str]
) -> tuple[str, typing.IO[bytes]]:
    """(name, content) of the formats of images: a zip, or one table alone.

    The content is a file without a name on the disk.
    """
    packed = tempfile.TemporaryFile(prefix="seg-")  # noqa: SIM115 - is given
    name = "seg_results.zip"
    try:
        with tempfile.TemporaryDirectory(prefix="seg-") as folder:
            written = _written(pairs, names, pathlib.Path(folder))
            if len(names) == 1 and formats.FORMATS[names[0]].is_shared:
                (path,) = written
                name = path.name
                packed.write(path.read_bytes())
            else:
                with zipfile.ZipFile(
                    packed, "w", zipfile.ZIP_DEFLATED
                ) as archive:
                    for path in written:
                        _pack(archive, path, path.parent)
        packed.seek(0)
    except BaseException:
        packed.close()
        raise
    return name, packed


def chunks(file: typing.IO[bytes]) -> Iterator[bytes]:
    """The content of a file, which is closed in the end."""
    with file:
        while part := file.read(1 << 20):
            yield part


def _written(
    pairs: Iterable["Pair"], names: Sequence[str], folder: pathlib.Path
) -> Iterator[pathlib.Path]:
    """Writes the formats; yields each path when it is complete."""
    chosen = [formats.FORMATS[name] for name in names]
    stems: set[str] = set()
    rows, abouts = [], []
    parts: dict[str, list] = {form.name: [] for form in chosen if form.part}
    for stored, found in pairs:
        stem = _stem(stored.name, stems)
        for form in chosen:
            if form.part:
                part = form.part(stored.pixels, found)
                parts[form.name].append((stem, part))
            elif form.per_image:
                path = folder / form.file(stem)
                form.write(path, stored.pixels, found)
                yield path
        rows += [{**row, "image": stem} for row in found.table]
        abouts.append({"image": stem, **_about(found)})
    if any(about.get("pixel_size_um") for about in abouts):
        # one table has the same columns for all
        rows = [physical.measured(row, None) for row in rows]
    for form in chosen:
        if form.is_shared:
            path = folder / form.name
            made = abouts if form.of_images else rows
            form.write(path, parts[form.name] if form.part else made)
            yield path


def _about(found: "predictor.Segmentation") -> dict[str, typing.Any]:
    return summary.of_image(
        found.labels.shape,
        found.table,
        lambda: summary.highest(found.probabilities),
        found.pixel_size,
    )


def _stem(name: str, taken: set[str]) -> str:
    """A file's name without its suffix, safe everywhere, not taken yet."""
    stem = re.sub(r"[^\w.+-]+", "_", pathlib.PurePath(name).stem)[:80]
    stem = stem.lstrip(".") or "image"
    free, i = stem, 1
    while free.lower() in taken:
        i += 1
        free = f"{stem}_{i}"
    taken.add(free.lower())
    return free


def _pack(
    archive: zipfile.ZipFile, path: pathlib.Path, root: pathlib.Path
) -> None:
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in inside:
        if file.is_file():
            stored = file.suffix in _COMPRESSED
            kind = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.write(file, file.relative_to(root), kind)
