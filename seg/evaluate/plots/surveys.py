"""Pictures of a data set: sizes, intensities, clusters, objects."""

import collections
import os
from typing import Any

import numpy as np

from seg.evaluate.plots import canvas

_EXAMPLES = 7


def sizes(path: str | os.PathLike[str], found: Any) -> None:
    """Rows against columns, an area a count; beside it the splits."""
    counts = collections.Counter((r["cols"], r["rows"]) for r in found.rows)
    splits = collections.Counter(row["split"] for row in found.rows)
    with canvas.figure(path, 9, 4.2) as figure:
        ax, bars = figure.subplots(1, 2, width_ratios=(2, 1))
        most = max(counts.values())
        for (cols, rows), n in counts.items():
            ax.scatter(
                cols, rows, 30 + 900 * n / most, color=canvas.colour(0),
                alpha=0.45, lw=0,
            )  # fmt: skip
            ax.annotate(str(n), (cols, rows), ha="center", va="center")
        ax.set(title="Sizes", xlabel="columns, px", ylabel="rows, px")
        ax.set(xlim=(0, None), ylim=(0, None))
        ax.margins(0.15)
        _bars(bars, splits, "Images by split")


def intensities(path: str | os.PathLike[str], found: Any) -> None:
    """Mean against deviation, and the histogram of each cluster."""
    of = np.array([row["cluster"] for row in found.rows])
    mean, std = np.array([[r["mean"], r["std"]] for r in found.rows]).T
    values, histograms = _coarse(found.histograms)
    with canvas.figure(path, 10, 4.2) as figure:
        left, right = figure.subplots(1, 2)
        for cluster in np.unique(of):
            here, colour = of == cluster, canvas.colour(cluster)
            label = f"cluster {cluster} ({here.sum()})"
            left.scatter(mean[here], std[here], 14, color=colour, label=label)
            right.plot(values, histograms[here].mean(0), color=colour, lw=1.5)
        left.set(title="Intensities of the images", xlabel="mean")
        left.set_ylabel("standard deviation")
        right.set(title="Mean histogram of a cluster", yscale="log")
        right.set(xlabel="intensity, share of the range", ylabel="pixels")
        right.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)


def _coarse(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(middles, shares) of about 64 bins up to the brightest pixel of all."""
    n_bins = histograms.shape[1]
    last = int(np.flatnonzero(histograms.any(0))[-1]) + 1
    edges = np.unique(np.linspace(0, last, 65).astype(int))
    shares = np.add.reduceat(histograms[:, :last], edges[:-1], axis=1)
    return (edges[:-1] + edges[1:]) / 2 / n_bins, shares


def examples(path: str | os.PathLike[str], found: Any) -> None:
    """A row of example images for each cluster."""
    of = np.array([row["cluster"] for row in found.rows])
    names = np.unique(of)
    with canvas.figure(
        path, 1.5 * _EXAMPLES + 1.2, 1.55 * len(names)
    ) as figure:
        axes = figure.subplots(len(names), _EXAMPLES, squeeze=False)
        for cluster, row in zip(names, axes, strict=True):
            members = np.flatnonzero(of == cluster)
            chosen = members[
                np.linspace(0, len(members) - 1, _EXAMPLES).astype(int)
            ]
            shown = list(dict.fromkeys(chosen.tolist()))
            for ax in row:
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
                ax.grid(False)
            for ax, at in zip(row, shown, strict=False):
                ax.imshow(found.thumbnails[at])
            row[0].set_ylabel(
                f"cluster {cluster}\nimages: {len(members)}",
                color=canvas.colour(cluster),
                fontsize=10,
            )


def objects(path: str | os.PathLike[str], found: Any) -> None:
    """Objects per image, their areas, and the balance of the classes."""
    per_image = [
        row["n_objects"] for row in found.rows if row["n_objects"] is not None
    ]
    with canvas.figure(path, 12, 3.8) as figure:
        first, second, third = figure.subplots(1, 3)
        if per_image:
            first.hist(per_image, 30, color=canvas.colour(0))
            first.axvline(np.median(per_image), color=canvas.colour(1))
        first.set(title="Objects per image", xlabel="objects")
        first.set_ylabel("images")
        if len(found.areas):
            edges = np.geomspace(1, found.areas.max() + 1, 40)
            second.hist(found.areas, edges, color=canvas.colour(0))
            second.axvline(np.median(found.areas), color=canvas.colour(1))
            second.set_xscale("log")
        second.set(title="Areas of the objects", xlabel="area, px")
        second.set_ylabel("objects")
        total = max(sum(found.pixels.values()), 1)
        shares = {name: n / total for name, n in found.pixels.items()}
        _bars(third, shares, "Pixels by class", "{:.1%}")


def _bars(
    ax: Any, values: dict[str, float], title: str, form: str = "{}"
) -> None:
    bars = ax.barh(list(values), list(values.values()), color=canvas.colour(0))
    ax.bar_label(bars, [form.format(v) for v in values.values()], padding=4)
    ax.invert_yaxis()
    ax.set_title(title)
    ax.margins(x=0.25)
    ax.set_xticks([])
    ax.grid(False)
    ax.spines["bottom"].set_visible(False)


SURVEY = {
    "sizes": sizes,
    "intensities": intensities,
    "clusters": examples,
    "objects": objects,
}
"""What is drawn of a data set, by the names of the files."""
