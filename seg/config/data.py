"""Knobs of the labelled images: where they are, how they are cut, or drawn."""

import dataclasses

from seg.config.knob import (
    BELOW_ONE,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    knob,
)


@dataclasses.dataclass(frozen=True)
class Data:
    """Labelled images, how they are split, and how tiles are cut."""

    layout: str = knob(
        "synthetic",
        "how the files lie: synthetic, dsb2018, stardist, folders, labelme or "
        "outlines (COCO, GeoJSON, ROIs, run lengths)",
        ("synthetic", "dsb2018", "stardist", "folders", "labelme", "outlines"),
    )
    path: str = knob("", "folder or zip with the images (not for synthetic)")
    dir: str = knob("data", "folder for prepared records")
    sha256: str = knob("", "expected sha256 of a zip at path; empty = any")
    exclude: str = knob(
        "",
        "text file with ids of images, one a line, that are left out",
    )
    exclude_groups: bool = knob(
        True, "what shares a field with an excluded image is left out too"
    )
    aliases: tuple[str, ...] = knob(
        (), "more names of classes in the files, as 'erythrocyte=cell'"
    )
    overlaps: str = knob(
        "error",
        "masks of two objects overlap: error, first or smallest",
        ("error", "first", "smallest"),
    )
    split: str = knob(
        "auto",
        "auto = as the data set publishes it, else group; group; clusters = "
        "by likeness of the images; images or tiles = each on its own, which "
        "leaks",
        ("auto", "group", "clusters", "images", "tiles"),
    )
    val_frac: float = knob(0.15, "share of the images for validation", FRACTION)
    test_frac: float = knob(0.15, "share of the images for the test", FRACTION)
    split_seed: int = knob(42, "seed of the split", NOT_NEGATIVE)
    folds: int = knob(
        0,
        "parts that the images are cut into, but for the test's; one of them "
        "validates, the others train; 0 = one split by val_frac",
        NOT_NEGATIVE,
    )
    fold: int = knob(
        0, "which of data.folds validates, 0 the first", NOT_NEGATIVE
    )
    normalize: str = knob(
        "percentile",
        "intensity scaling, steps as 'invert + minmax + gamma': percentile "
        "(1 to 99.8), standard, minmax and range (of the dtype) by image; "
        "global, invert, equalize (in 64 parts), gamma, columns (the last), "
        "none",
    )
    gamma: float = knob(1.2, "intensities to the power 1 / gamma", POSITIVE)
    invert_above: float = knob(
        80.0, "mean from which invert inverts, of 255", NOT_NEGATIVE
    )
    mean: tuple[float, ...] = knob(
        (), "mean by channel for global; empty = of the training images"
    )
    std: tuple[float, ...] = knob(
        (), "deviation by channel for global; empty = of the training images"
    )
    diameter: float = knob(
        0.0,
        "usual diameter of the objects, px; 0 = of the training images, where "
        "model.objects is learned",
        NOT_NEGATIVE,
    )
    pixel_size: float = knob(
        0.0, "micrometres a px; 0 = not known", NOT_NEGATIVE
    )
    rescale: float = knob(
        0.0,
        "diameter that the objects of every image are brought to when it is "
        "prepared, px; 0 = as they are",
        NOT_NEGATIVE,
    )
    resize: int = knob(
        0,
        "side that whole images are resized to, px; 0 = as they are",
        NOT_NEGATIVE,
    )
    tile: int = knob(256, "side of a training tile, px", POSITIVE)
    overlap: float = knob(
        0.25, "least overlap of two tiles, share of a side", BELOW_ONE
    )
    spacing: str = knob(
        "least",
        "tiles lie evenly: least = as few as the overlap allows; ceil = "
        "length / side, rounded up, one more where they overlap by < 10 px",
        ("least", "ceil"),
    )
    per_image: int = knob(
        0,
        "tiles of an image in an epoch, at most, so that large images do "
        "not outweigh small ones; 0 = all",
        NOT_NEGATIVE,
    )
    hard: str = knob(
        "",
        "images.csv of launch.evaluate --split=train: of the worse half of the "
        "training images twice as many tiles, of the worst quarter three times",
    )
    object_rich: float = knob(
        0.0,
        "share of the tiles that are cut around a random object instead",
        FRACTION,
    )
    gap: int = knob(
        0,
        "px of background taught between touching objects: 0, 1 or 2",
        (0, 1, 2),
    )
    cache_mib: int = knob(
        512, "decoded images kept in host memory, MiB", POSITIVE
    )


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Drawn images with exact masks (data.layout=synthetic)."""

    kind: str = knob(
        "nuclei",
        "what is drawn: nuclei, cells or beads",
        ("nuclei", "cells", "beads"),
    )
    n_train: int = knob(48, "training images", POSITIVE)
    n_val: int = knob(8, "validation images", NOT_NEGATIVE)
    n_test: int = knob(12, "test images", NOT_NEGATIVE)
    height: int = knob(256, "rows of an image, px", POSITIVE)
    width: int = knob(256, "columns of an image, px", POSITIVE)
    n_objects: int = knob(40, "objects to place in an image", NOT_NEGATIVE)
    diameter: float = knob(24.0, "median diameter of an object, px", POSITIVE)
    touching: float = knob(
        0.3, "share of the objects placed against another", FRACTION
    )
    n_classes: int = knob(2, "classes with the background (cells: 3 or 4)")
    contrast: float = knob(
        1.0, "light of the objects, share of the usual", POSITIVE
    )
    noise: float = knob(
        0.08, "noise, share of the intensity range", NOT_NEGATIVE
    )
    blur: float = knob(
        1.0, "sigma of the point spread function, px", NOT_NEGATIVE
    )
    shading: float = knob(0.3, "strength of the uneven light", NOT_NEGATIVE)
    seed: int = knob(0, "seed of the drawing", NOT_NEGATIVE)
