"""The map that keeps objects apart, held against its definition."""

import functools

import jax
import numpy as np
import pytest
from scipy import ndimage

from seg.train.losses import apart


@functools.cache
def _jitted(kind):
    return jax.jit(lambda labels: apart.target(labels, kind))


def target(labels, kind="distance"):
    """Of one image [H, W], as a batch of one."""
    return np.asarray(_jitted(kind)(labels[None].astype(np.int32)))[0]


def drawn(seed=0, shape=(50, 60)):
    """Touching objects of all sizes, some cut by the image's border."""
    rng = np.random.default_rng(seed)
    middles = rng.uniform((0, 0), shape, (14, 2))
    away = np.linalg.norm(
        np.indices(shape)[..., None] - middles.T[:, None, None], axis=0
    )
    return np.where(away.min(2) < 8, away.argmin(2) + 1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_to_the_nearest_pixel_of_anything_else(seed):
    labels = drawn(seed)
    found = target(labels)
    assert found.dtype == np.float32 and not found[labels == 0].any()
    seen = 0
    for label in range(1, 15):
        own, others = np.argwhere(labels == label), labels != label
        if not len(own):
            continue
        away = own[:, None] - np.argwhere(others)
        depth = np.linalg.norm(away, axis=2).min(1)
        wanted = ((depth - 0.5) / 4.5).clip(0, 1)
        np.testing.assert_allclose(found[tuple(own.T)], wanted, atol=1e-6)
        seen += len(np.unique(wanted))
    assert seen > 60


@pytest.mark.parametrize("seed", range(3))
def test_a_neighbour_lowers_the_distance_by_how_near_it_is(seed):
    labels = drawn(seed)
    labels[drawn(seed + 7) == 0] = 0  # neighbours across a gap, too
    found, free = target(labels, "neighbour"), target(labels)
    lowered = 0
    for label in np.unique(labels[labels > 0]):
        own = np.argwhere(labels == label)
        others = np.argwhere((labels != label) & (labels > 0))
        gap = np.linalg.norm(own[:, None] - others, axis=2).min(1)
        near = np.where(gap <= 5, 1 - gap / 6, 0)
        wanted = free[tuple(own.T)] * (1 - near**2)
        np.testing.assert_allclose(found[tuple(own.T)], wanted, atol=1e-6)
        lowered += (near > 0).sum()
    assert lowered > 100 and not found[labels == 0].any()


@pytest.mark.parametrize("seed", range(3))
def test_how_near_another_object_is(seed):
    labels = drawn(seed)
    labels[drawn(seed + 7) == 0] = 0
    labels[:9, :9] = -1  # unknown: no object
    found = np.asarray(jax.jit(apart.near)(labels[None].astype(np.int32)))[0]
    for label in np.unique(labels[labels > 0]):
        own = np.argwhere(labels == label)
        others = np.argwhere((labels != label) & (labels > 0))
        gap = np.linalg.norm(own[:, None] - others, axis=2).min(1)
        wanted = np.where(gap <= 5, 1 - (gap - 1) / 5, 0)
        np.testing.assert_allclose(found[tuple(own.T)], wanted, atol=1e-6)
    assert not found[labels <= 0].any()
    assert (found == 1).any() and (found > 0).sum() > 100


def test_the_interior_leaves_out_a_rim():
    labels = np.zeros((30, 40), np.int32)
    labels[5:15, 5:15], labels[5:15, 15:25] = 1, 2  # touching
    labels[20:24, 3:7], labels[26, 30] = 7, 9  # too small to have one
    labels[20:, 12:20] = 11  # cut by the border
    wanted = np.zeros(labels.shape, bool)
    wanted[7:13, 7:13] = wanted[7:13, 17:23] = wanted[22:, 14:18] = True
    np.testing.assert_array_equal(target(labels, "interior"), wanted)


def test_what_nobody_knows_is_no_border():
    labels = drawn(1)
    hidden = labels.copy()
    hidden[:, 40:] = hidden[35:] = -1
    found = target(hidden)
    assert not found[hidden < 0].any()
    # as if the tile ended there
    np.testing.assert_array_equal(found[:35, :40], target(labels[:35, :40]))


def test_images_of_a_batch_do_not_see_each_other():
    batch = np.stack([drawn(seed) for seed in range(4)]).astype(np.int32)
    together = _jitted("distance")(batch)
    for labels, found in zip(batch, together, strict=True):
        np.testing.assert_array_equal(target(labels), found)


@pytest.mark.parametrize(
    ("kind", "level"), [("distance", 0.4), ("neighbour", 0.3), ("interior", 0)]
)
def test_the_map_takes_the_objects_apart_again(kind, level):
    labels = drawn()
    parts, n = ndimage.label(target(labels, kind) > level)
    for part in range(1, n + 1):
        assert len(np.unique(labels[parts == part])) == 1
    assert set(np.unique(labels[parts > 0])) == set(np.unique(labels)) - {0}


@pytest.mark.parametrize("kind", ["distance", "neighbour", "interior"])
def test_nothing_and_all_of_one_object_are_maps_too(kind):
    nothing = np.zeros((4, 5), np.int32)
    assert not target(nothing, kind).any()
    assert (target(nothing + 3, kind) == 1).all()
