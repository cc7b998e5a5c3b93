"""What a labelled data set is made of: looked at before anything is trained.

`survey` goes over all records once, keeping numbers and thumbnails only, and
`write_all` makes a table and pictures of them.

The images are put into at most eight clusters by their intensities and sizes,
as `data.split=clusters` does (`clusters.alike`), with the seed of their split.
What they are put by is that of the records: their groups, which another
data.split may find otherwise, and their dtype, to which 8-bit images stored
beside 16-bit ones are widened. Records that were split by clusters, all of one
dtype, are shown in just those clusters.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from seg.data import clusters, records
from seg.evaluate import marks, plots
from seg.images import formats

FIELDS = (
    "image", "split", "group", "cluster", "rows", "cols", "channels", "dtype",
    "min", "max", "mean", "std", "n_objects", "median_area_px", "foreground",
    "not_annotated",
)  # fmt: skip

N_BINS = 1024
_THUMBNAIL_PX = 120
_NOT_ANNOTATED = 255


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was seen of N images.

    Parameters
    ----------
    rows : one an image, with `FIELDS`; intensities are those stored,
        not_annotated a share of the pixels, foreground of those annotated, or
        None.
    areas : int64, px, of all objects.
    pixels : {class: how many}.
    histograms : float32 [N, N_BINS], shares of the pixels over the range from
        0 to the largest value that the image's type (float: the image) has.
    thumbnails : uint8 [h, w, 3], N.
    """

    rows: list[dict[str, Any]]
    areas: np.ndarray
    pixels: dict[str, int]
    histograms: np.ndarray
    thumbnails: list[np.ndarray]

    def totals(self) -> dict[str, float]:
        """The numbers of the whole, by names for a tracker."""
        rows = self.rows
        known = [r["n_objects"] for r in rows if r["n_objects"] is not None]
        found = {
            "data/n_images": len(rows),
            "data/n_objects": sum(known),
        }
        shares = [r["foreground"] for r in rows if r["foreground"] is not None]
        if shares:
            found["data/foreground"] = float(np.mean(shares))
        if known:
            found["data/objects_per_image"] = float(np.median(known))
        if len(self.areas):
            found["data/median_area_px"] = float(np.median(self.areas))
        return {name: float(value) for name, value in found.items()}

    def summary(self) -> str:
        """A few lines for the terminal."""
        rows, totals = self.rows, self.totals()
        sizes = sorted({(row["rows"], row["cols"]) for row in rows})
        low, high = ("x".join(map(str, sizes[at])) for at in (0, -1))
        size = f"{len(sizes)} sizes from {low} to {high} px"
        if len(sizes) == 1:
            size = f"1 size of {low} px"
        by_split = {
            name: sum(row["split"] == name for row in rows)
            for name in dict.fromkeys(row["split"] for row in rows)
        }
        lines = [
            f"{len(rows)} images ("
            + ", ".join(f"{n} {name}" for name, n in by_split.items())
            + f"), {size}",
            f"{totals['data/n_objects']:.0f} objects",
        ]
        if "data/foreground" in totals:
            lines[-1] += (
                f", {totals['data/foreground']:.1%} foreground by image"
            )
        if len(self.areas):
            ends = np.percentile(self.areas, (5, 50, 95)).astype(int)
            lines.append(
                "areas: 5 % below {} px, half below {}, 5 % above {}".format(
                    *ends
                )
            )
        total = max(sum(self.pixels.values()), 1)
        shares = (f"{k} {n / total:.1%}" for k, n in self.pixels.items())
        return "\n".join([*lines, "pixels: " + ", ".join(shares)])


def survey(data: records.Records, class_names: Sequence[str]) -> Survey:
    """Looks at every record of every split once."""
    rows, areas, histograms, thumbnails = [], [], [], []
    features, groups = {}, {}
    pixels = np.zeros(256, np.int64)
    for split, record in _all(data):
        image, classes = record["image"], record["classes"]
        counts = np.bincount(classes.ravel(), minlength=256)
        pixels += counts
        n_known = classes.size - counts[_NOT_ANNOTATED]
        of_image = _areas(record.get("labels"))
        areas += [] if of_image is None else of_image.tolist()
        features[record["id"]] = clusters.features(image)
        groups[record["id"]] = record["group"]
        histograms.append(_histogram(image))
        thumbnails.append(marks.picture(image, _THUMBNAIL_PX))
        rows.append(
            {
                "image": record["id"],
                "split": split,
                "group": record["group"],
                **_intensities(image),
                "n_objects": None if of_image is None else len(of_image),
                "median_area_px": _median(of_image),
                "foreground": 1 - counts[0] / n_known if n_known else None,
                "not_annotated": counts[_NOT_ANNOTATED] / classes.size,
            }
        )
    alike = clusters.alike(features, groups, data.config.data.split_seed)
    for row in rows:
        row["cluster"] = alike[row["group"]]
    return Survey(
        rows,
        np.array(areas, np.int64),
        {name: int(pixels[k]) for k, name in enumerate(class_names)},
        np.array(histograms, np.float32),
        thumbnails,
    )


def write_all(folder: pathlib.Path, found: Survey) -> dict[pathlib.Path, str]:
    """Writes images.csv and the pictures: {path: folder of the artifact}."""
    table = folder / "images.csv"
    formats.write_table(table, found.rows, FIELDS)
    files = {table: ""}
    for name, draw in plots.SURVEY.items():
        path = folder / "explore" / f"{name}.png"
        draw(path, found)
        files[path] = "explore"
    return files


def _all(data: records.Records) -> Iterator[tuple[str, records.Record]]:
    for split in records.SPLITS:
        for i in range(data.n(split)):
            yield split, data.read(split, i)


def _areas(labels: np.ndarray | None) -> np.ndarray | None:
    """Areas of the objects, px; None where objects are not known."""
    if labels is None:
        return None
    areas = np.bincount(labels.ravel())[1:]
    return areas[areas > 0]


def _median(areas: np.ndarray | None) -> float | None:
    return float(np.median(areas)) if areas is not None and len(areas) else None


def _intensities(image: np.ndarray) -> dict[str, Any]:
    n_rows, n_cols, n_channels = image.shape
    return {
        "rows": n_rows,
        "cols": n_cols,
        "channels": n_channels,
        "dtype": str(image.dtype),
        "min": float(image.min()),
        "max": float(image.max()),
        "mean": float(image.mean(dtype=np.float64)),
        "std": float(image.std(dtype=np.float64)),
    }


def _histogram(image: np.ndarray) -> np.ndarray:
    whole = np.issubdtype(image.dtype, np.integer)
    top = np.iinfo(image.dtype).max if whole else max(float(image.max()), 1e-9)
    counts, _ = np.histogram(image, N_BINS, (0, top))
    return counts / image.size
