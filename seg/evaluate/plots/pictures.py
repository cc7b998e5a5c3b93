"""Pictures of images, their objects and the errors, with a legend."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from seg.evaluate import marks
from seg.evaluate.plots import canvas


def overlay(
    path: str | os.PathLike[str],
    raw: np.ndarray,
    marked: np.ndarray,
    *,
    title: str,
    counts: Mapping[str, int] | None = None,
) -> None:
    """The raw image beside its marked one (uint8 [h, w, 3] of one size).

    counts: objects "right", "missed" and "wrong", for the legend.
    """
    n_rows, n_cols = raw.shape[:2]
    scale = 6.2 / max(n_rows, n_cols)
    with canvas.figure(
        path, 2 * scale * n_cols + 0.3, scale * n_rows + 0.9
    ) as figure:
        axes = figure.subplots(1, 2)
        for ax, shown in zip(axes, (raw, marked), strict=True):
            _show(ax, shown)
        figure.suptitle(title, x=0.012, ha="left", fontweight="bold")
        _marks_legend(figure, counts)


def _show(ax: Any, shown: np.ndarray, title: str = "") -> None:
    ax.imshow(shown, interpolation="antialiased")
    ax.set_title(title)
    ax.set_axis_off()


def _marks_legend(
    figure: Any,
    counts: Mapping[str, int] | None = None,
    *,
    loc: str = "outside lower center",
    at: tuple[float, float] | None = None,
) -> None:
    from matplotlib import patches

    handles = []
    for name, colour, what in (
        ("right", marks.RIGHT, "found"),
        ("missed", marks.MISSED, "there, not found"),
        ("wrong", marks.WRONG, "found, not there"),
    ):
        text = f"{name}: {what}"
        if counts is not None:
            text = f"{counts[name]} {text}"
        face = [c / 255 for c in colour]
        handles.append(patches.Patch(fc=face, ec="#444444", lw=0.6, label=text))
    figure.legend(
        handles=handles, loc=loc, bbox_to_anchor=at, ncols=3, handlelength=1.2,
        handleheight=1.1, fontsize=11,
    )  # fmt: skip


def hero(
    path: str | os.PathLike[str],
    image: np.ndarray,
    labels: np.ndarray,
    truth: np.ndarray,
    *,
    classes: np.ndarray | None = None,
    pixel_um: float | None = None,
) -> None:
    """What seg does, in one picture: image, objects, errors, areas.

    image [H, W, C], labels and truth int [H, W]; choose a part of about
    256x256 px. classes: outlines by class, else a colour an object.
    pixel_um: side of a pixel, micrometres, for the areas.
    """
    side, panel, gap = 640, 3.8, 0.12  # px, inches
    width, height = 4 * panel + 3 * gap + 1.0, panel + 1.0
    n_found = len(np.unique(labels[labels > 0]))
    titles = "Image", f"{n_found} objects found", "Compared with the truth"
    pictures = (
        marks.picture(image, side),
        marks.objects_overlay(image, labels, classes, side=side),
        marks.truth_overlay(image, truth, labels, side=side),
    )
    with canvas.figure(path, width, height) as figure:
        # by hand, so that the four squares are of one size
        figure.set_layout_engine("none")
        for i in range(4):
            left = gap + i * (panel + gap) + (0.62 if i == 3 else 0)
            size = panel - (0.12 if i == 3 else 0)
            box = left / width, 0.6 / height, size / width, panel / height
            ax = figure.add_axes(box)
            if i < 3:
                _show(ax, pictures[i], titles[i])
            else:
                _areas(ax, labels, truth, pixel_um)
            ax.title.set_fontsize(14)
        middle = (2.5 * panel + 3 * gap) / width
        _marks_legend(figure, loc="lower center", at=(middle, 0.0))


def _areas(
    ax: Any, labels: np.ndarray, truth: np.ndarray, pixel_um: float | None
) -> None:
    unit, scale = "px", 1.0
    if pixel_um is not None:
        unit, scale = "µm²", pixel_um**2
    found, true = (_area(x) * scale for x in (labels, truth))
    largest = max(found.max(initial=scale), true.max(initial=scale))
    bins = np.linspace(0, largest, 16)
    ax.hist(true, bins, color="#cfcfcf", label=f"truth: {len(true)}")
    ax.hist(
        found, bins, histtype="step", color=canvas.colour(0), lw=2.2,
        label=f"found: {len(found)}",
    )  # fmt: skip
    ax.set(
        title="Areas of the objects", xlabel=f"area, {unit}", ylabel="objects"
    )
    ax.legend(loc="upper right")


def _area(labels: np.ndarray) -> np.ndarray:
    _, areas = np.unique(labels[labels > 0], return_counts=True)
    return areas
