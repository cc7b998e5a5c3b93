"""Drawn images: exact masks, real difficulties, the same bits every time."""

import dataclasses
import time

import numpy as np
import pytest
from scipy import ndimage, optimize
from skimage import feature, filters, segmentation

from seg import config
from seg.data import synthetic

SCENES = [
    ("nuclei", 2),
    ("beads", 2),
    ("beads", 3),
    ("cells", 2),
    ("cells", 3),
    ("cells", 4),
]
EIGHT = np.ones((3, 3))


def spec_of(kind="nuclei", n_classes=2, **changes):
    sizes = {"height": 200, "width": 260, "diameter": 30.0, "n_objects": 20}
    return config.Synthetic(kind=kind, n_classes=n_classes, **sizes | changes)


def n_touching(labels):
    """How many objects have a pixel next to another object's."""
    large = np.where(labels, labels, np.iinfo(labels.dtype).max)
    low = ndimage.minimum_filter(large, 3)
    high = ndimage.maximum_filter(labels, 3)
    met = (labels > 0) & ((low < labels) | (high > labels))
    return len(np.unique(labels[met]))


def ap50(truth, found):
    """(matched, true, found) objects at IoU 0.5."""
    counts = np.zeros((truth.max() + 1, found.max() + 1))
    np.add.at(counts, (truth, found), 1)
    union = counts.sum(0) + counts.sum(1)[:, None] - counts
    iou = (counts / union)[1:, 1:]
    pairs = optimize.linear_sum_assignment(iou >= 0.5, maximize=True)
    matched = iou[pairs]
    return np.array([(matched >= 0.5).sum(), *iou.shape])


def split_by_distance(mask):
    depth = ndimage.gaussian_filter(
        ndimage.distance_transform_edt(mask).astype(np.float32), 2
    )
    parts, _ = ndimage.label(mask, EIGHT)
    peaks = feature.peak_local_max(
        depth, min_distance=5, labels=parts, exclude_border=False
    )
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return segmentation.watershed(-depth, seeds, mask=mask)


def pooled(scores):
    matched, n_true, n_found = np.sum(scores, 0)
    return matched / (n_true + n_found - matched)


@pytest.mark.parametrize(("kind", "n_classes"), SCENES)
def test_every_scene_has_exact_masks(kind, n_classes):
    drawn = synthetic.draw(spec_of(kind, n_classes), 3)
    image, classes, labels = (
        drawn[name] for name in ("image", "classes", "labels")
    )
    assert image.shape == (200, 260, 1)
    assert image.dtype == (np.uint16 if kind == "nuclei" else np.uint8)
    assert classes.dtype == np.uint8 and labels.dtype == np.int32
    assert np.array_equal(classes > 0, labels > 0)
    n = labels.max()
    assert np.array_equal(np.unique(labels), np.arange(n + 1))
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[box] == i
        assert len(np.unique(classes[box][mask])) == 1
        assert ndimage.label(mask, EIGHT)[1] == 1
    assert 15 <= n <= 20
    assert set(np.unique(classes)) <= set(range(n_classes))


def test_all_classes_of_a_scene_occur():
    drawn = synthetic.draw(spec_of("cells", 4, n_objects=40), 0)
    assert set(np.unique(drawn["classes"])) == {0, 1, 2, 3}


def test_the_same_index_gives_the_same_bits_and_another_does_not():
    spec = spec_of()
    first, again = synthetic.draw(spec, 5), synthetic.draw(spec, 5)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    other = synthetic.draw(spec, 6)
    assert not np.array_equal(first["labels"], other["labels"])
    seeded = synthetic.draw(spec_of(seed=1), 5)
    assert not np.array_equal(first["labels"], seeded["labels"])


def test_a_quarter_of_the_objects_touch_by_default_and_none_if_unwanted():
    drawn = [synthetic.draw(config.Synthetic(), i)["labels"] for i in range(4)]
    share = sum(map(n_touching, drawn)) / sum(x.max() for x in drawn)
    assert share >= 0.25
    apart = synthetic.draw(spec_of(touching=0.0), 0)["labels"]
    assert n_touching(apart) == 0
    assert ndimage.label(apart, EIGHT)[1] == apart.max()


def test_objects_are_cut_by_the_border():
    labels = synthetic.draw(config.Synthetic(), 0)["labels"]
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    assert len(np.unique(rim)) > 3


def test_objects_are_brighter_than_what_surrounds_them():
    drawn = synthetic.draw(config.Synthetic(), 0)
    image, labels = drawn["image"][..., 0].astype(float), drawn["labels"]
    means = ndimage.mean(image, labels, np.arange(labels.max() + 1))
    assert (means[1:] > 1.5 * means[0]).all()


def test_less_contrast_dims_the_objects_alone():
    def found(contrast):
        drawn = synthetic.draw(spec_of(contrast=contrast, noise=0.0), 0)
        image, inside = drawn["image"][..., 0], drawn["labels"] > 0
        return drawn["labels"], image[inside].mean() - image[~inside].mean()

    (labels, usual), (same, dim) = found(1.0), found(0.2)
    np.testing.assert_array_equal(labels, same)
    assert 0 < dim < 0.3 * usual


def test_touching_nuclei_fool_otsu_but_a_perfect_foreground_separates():
    scores = {"otsu": [], "perfect": []}
    for i in range(6):
        drawn = synthetic.draw(config.Synthetic(), i)
        image, labels = drawn["image"][..., 0], drawn["labels"]
        bright, _ = ndimage.label(image > filters.threshold_otsu(image), EIGHT)
        scores["otsu"].append(ap50(labels, bright))
        scores["perfect"].append(ap50(labels, split_by_distance(labels > 0)))
    assert pooled(scores["otsu"]) < 0.65
    assert pooled(scores["perfect"]) > 0.9


def test_noise_shading_and_blur_do_what_they_say():
    clean = spec_of(noise=0.0, shading=0.0, blur=0.0, n_objects=0)

    def background(**changes):
        spec = dataclasses.replace(clean, **changes)
        image = synthetic.draw(spec, 0)["image"][..., 0]
        return image.astype(float)

    def rough(image):
        return (np.diff(image) ** 2).mean()

    assert rough(background(noise=0.1)) > 400 * rough(background())
    lamp = background(shading=0.9) / background()
    assert lamp.max() <= 1.01 and 0.1 < lamp.min() < 0.7
    spec = dataclasses.replace(clean, n_objects=20)
    sharp = synthetic.draw(spec, 0)["image"][..., 0].astype(float)
    soft_spec = dataclasses.replace(spec, blur=2.0)
    soft = synthetic.draw(soft_spec, 0)["image"][..., 0].astype(float)
    assert rough(soft) < 0.6 * rough(sharp)


def test_a_full_image_takes_fewer_objects_and_an_empty_one_none():
    full = synthetic.draw(spec_of(n_objects=400, height=64, width=64), 0)
    assert 3 < full["labels"].max() < 60
    empty = synthetic.draw(spec_of(n_objects=0), 0)
    assert not empty["labels"].any() and not empty["classes"].any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (33, 2), (7, 7)])
def test_any_size_can_be_drawn(shape):
    drawn = synthetic.draw(spec_of(height=shape[0], width=shape[1]), 0)
    assert drawn["labels"].shape == drawn["image"].shape[:2] == shape


def test_an_impossible_scene_names_the_choices():
    with pytest.raises(config.ConfigError, match=r"n_classes=4.*one of 2, 3"):
        synthetic.draw(spec_of("beads", 4), 0)


@pytest.mark.slow
def test_a_4096_px_image_takes_seconds():
    spec = spec_of(
        "cells", 4, height=4096, width=4096, diameter=200.0, n_objects=150
    )
    started = time.perf_counter()
    labels = synthetic.draw(spec, 0)["labels"]
    assert time.perf_counter() - started < 30  # 4 s on an idle core
    assert labels.shape == (4096, 4096) and labels.max() > 120
