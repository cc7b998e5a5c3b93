import io
import pathlib
import zipfile

import numpy as np
import pytest
from scipy import ndimage
from skimage import draw, measure

from seg.data import targets
from seg.evaluate import matching
from seg.predict import objects
from seg.train import losses

ARCHIVE = (
    pathlib.Path(__file__).parents[2] / "../shared/data/dsb2018_stardist.zip"
).resolve()


def _noise(seed, shape=(40, 50), share=0.4, sigma=1.0):
    field = np.random.default_rng(seed).normal(size=shape)
    field = ndimage.gaussian_filter(field, sigma)
    return field > np.quantile(field, 1 - share)


def _first_pixels(labels):
    ids, first = np.unique(labels, return_index=True)
    return first[ids > 0]


def _same_objects(one, other):
    """Equal up to the ids."""
    pairs = np.unique(np.stack((one.ravel(), other.ravel())), axis=1)
    return len(np.unique(one)) == len(np.unique(other)) == pairs.shape[1]


@pytest.mark.parametrize("connectivity", [1, 2])
@pytest.mark.parametrize("order", ["C", "F"])
def test_components_equal_scikit_image_and_come_in_raster_order(
    connectivity, order
):
    mask = np.asarray(_noise(0), order=order)
    labels = objects.components(mask, connectivity)
    oracle = measure.label(mask, connectivity=connectivity)
    assert labels.dtype == np.int32 and labels.max() == oracle.max() > 5
    assert _same_objects(labels, oracle)
    assert (np.diff(_first_pixels(labels)) > 0).all()


def _cells(seed=0, shape=(90, 110), n=40):
    """Label image of touching cells, ids in no order."""
    rng = np.random.default_rng(seed)
    middles = rng.uniform((0, 0), shape, (n, 2))
    away = np.linalg.norm(
        np.indices(shape)[..., None] - middles.T[:, None, None], axis=0
    )
    return np.where(away.min(2) < 9, away.argmin(2) + 1, 0)


@pytest.mark.parametrize("kind", ["distance", "neighbour", "interior"])
def test_a_perfect_map_gives_the_objects_back(kind):
    cells = _cells()
    apart = np.asarray(losses.apart.target(cells[None], kind))[0]
    found = objects.learned(cells > 0, apart, 0.1)
    assert objects.components(cells > 0).max() < 0.6 * len(np.unique(cells))
    assert (np.diff(_first_pixels(found)) > 0).all()
    assert found.dtype == np.int32
    assert matching.match(cells, found, (0.5,)).ap[0] == 1


def test_where_the_map_has_one_peak_or_none_a_component_stays_whole():
    mask = _noise(3, share=0.5)
    labels = objects.components(mask)
    for level in (0.2, 0.9):
        apart = np.full(mask.shape, level)
        np.testing.assert_array_equal(objects.learned(mask, apart, 0), labels)


@pytest.mark.parametrize("connectivity", [1, 2])
def test_a_component_is_cut_as_if_it_were_alone(connectivity):
    mask, noise = _noise(1, share=0.6), np.random.default_rng(1)
    apart = ndimage.gaussian_filter(noise.random(mask.shape), 1)
    found = objects.learned(mask, apart, 0.02, connectivity)
    parts = objects.components(mask, connectivity)
    assert found.max() > parts.max() > 5
    for label in range(1, parts.max() + 1):
        own = parts == label
        alone = objects.learned(own, apart, 0.02, connectivity)
        assert _same_objects(alone, np.where(own, found, 0))


def test_single_pixels_and_borders_count():
    mask = np.zeros((5, 6), bool)
    mask[0, 0] = mask[4, 5] = mask[2, 2] = mask[0, 5] = True
    assert objects.components(mask).max() == 4
    mask[1, 1] = True  # joins two of them at corners
    assert objects.components(mask).max() == 3
    assert objects.watershed(mask, 2.0, 5).max() == 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (30, 20)])
def test_empty_and_full_masks_of_any_size(shape):
    for mask in (np.zeros(shape, bool), np.ones(shape, bool)):
        for labels in (
            objects.components(mask),
            objects.watershed(mask, 2.0, 5),
            objects.fill_holes(mask.astype(np.int32)),
        ):
            assert labels.dtype == np.int32
            np.testing.assert_array_equal(labels, mask)


def _disks(*circles, shape=(60, 80)):
    mask = np.zeros(shape, bool)
    for row, col, radius in circles:
        mask[draw.disk((row, col), radius, shape=shape)] = True
    return mask


def test_watershed_cuts_touching_disks_between_their_centres():
    mask = _disks((25, 15, 11), (25, 34, 11), (43, 34, 11))
    assert objects.components(mask).max() == 1
    labels = objects.watershed(mask, 2.0, 5)
    np.testing.assert_array_equal(labels > 0, mask)
    assert labels.max() == 3
    centres = [labels[25, 15], labels[25, 34], labels[43, 34]]
    assert sorted(centres) == [1, 2, 3]
    areas = np.bincount(labels.ravel())[1:]
    assert areas.min() > 0.8 * areas.max()


def test_watershed_leaves_convex_objects_whole():
    mask = _disks((15, 15, 12), (15, 60, 5))
    mask[40:50, 5:75] = True  # a long bar: its ridge is one seed
    mask[55:58, 2:4] = True
    labels = objects.watershed(mask, 2.0, 5)
    np.testing.assert_array_equal(labels, objects.components(mask))


def test_watershed_cuts_objects_at_the_border():
    mask = _disks((0, 20, 11), (0, 39, 11))
    assert objects.watershed(mask, 2.0, 5).max() == 2


def test_watershed_joins_what_components_join():
    corners = np.eye(2, dtype=bool).repeat(8, 0).repeat(8, 1)
    for connectivity, n in ((1, 2), (2, 1)):
        whole = objects.watershed(corners, 20.0, 40, connectivity)
        assert whole.max() == n


def test_watershed_does_not_depend_on_what_lies_around():
    near = _disks((25, 20, 11), (25, 39, 11), (49, 30, 8))
    alone = _disks((25, 20, 11), (25, 39, 11))
    labels = objects.watershed(near, 2.0, 5)
    again = objects.watershed(alone, 2.0, 5)
    np.testing.assert_array_equal(np.where(alone, labels, 0), again)


@pytest.mark.parametrize(("distance", "n"), [(3, 2), (10, 2), (21, 1), (22, 1)])
def test_seeds_nearer_than_the_distance_are_one(distance, n):
    mask = _disks((25, 20, 11), (25, 41, 11))  # centres 21 apart, as high
    assert objects.watershed(mask, 0.0, distance).max() == n


@pytest.mark.parametrize("seed", range(4))
def test_watershed_only_ever_cuts_components(seed):
    mask = _noise(seed, (70, 90), 0.5, 2.0)
    labels = objects.watershed(mask, 1.0, 3)
    np.testing.assert_array_equal(labels > 0, mask)
    whole = objects.components(mask)
    assert labels.max() > whole.max()
    for label in range(1, labels.max() + 1):
        own = labels == label
        assert objects.components(own).max() == 1
        assert np.unique(whole[own]).size == 1
    assert (np.diff(_first_pixels(labels)) > 0).all()
    np.testing.assert_array_equal(labels, objects.watershed(mask, 1.0, 3))


def test_fill_holes_fills_what_one_object_encloses():
    labels = np.zeros((12, 30), np.int32)
    labels[1:8, 1:8] = 1
    labels[3:5, 3:6] = 0  # a hole
    labels[2, 6] = 0  # closed at its corners, too
    labels[8:12, 1:8] = 3
    labels[10:12, 3:5] = 0  # open to the image's border
    labels[1:8, 12:20] = 2
    labels[3:6, 14:17] = 0
    labels[4, 15] = 4  # a hole with an object in it
    labels[1:9, 22:25], labels[1:9, 25:28] = 5, 6
    labels[3:5, 24:26] = 0  # between two objects
    filled = objects.fill_holes(labels)
    expected = labels.copy()
    expected[1:8, 1:8] = 1
    np.testing.assert_array_equal(filled, expected)


@pytest.mark.parametrize("seed", range(4))
def test_fill_holes_equals_filling_object_by_object(seed):
    labels = objects.components(_noise(seed, share=0.6, sigma=0.7))
    expected = labels.copy()
    for label in range(1, labels.max() + 1):
        own = labels == label
        holes, n_holes = ndimage.label(ndimage.binary_fill_holes(own) & ~own)
        for hole in range(1, n_holes + 1):
            if not labels[holes == hole].any():
                expected[holes == hole] = label
    assert (expected != labels).any()
    np.testing.assert_array_equal(objects.fill_holes(labels), expected)


def test_keep_and_border():
    labels = np.array([[1, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 3], [0, 0, 0, 0]])
    assert objects.at_border(labels).tolist() == [1, 3]
    kept = objects.keep(labels, np.array([True, False, True, True]))
    assert kept.dtype == np.int32
    np.testing.assert_array_equal(kept, np.where(labels == 1, 0, labels))


def test_raster_order_takes_any_ids():
    labels = np.array([[0, 90, 4], [4, 4, 90], [7, 0, 0]], np.uint16)
    expected = [[0, 1, 2], [2, 2, 1], [3, 0, 0]]
    ordered = objects.in_raster_order(labels)
    assert ordered.dtype == np.int32
    np.testing.assert_array_equal(ordered, expected)
    np.testing.assert_array_equal(
        objects.in_raster_order(np.asfortranarray(labels)), expected
    )


@pytest.mark.data
@pytest.mark.skipif(
    not ARCHIVE.exists(), reason="needs ../shared/data/dsb2018_stardist.zip"
)
def test_a_perfect_foreground_reaches_the_ceiling():
    """The rows "perfect foreground" of the benchmark's table, at least."""
    import tifffile

    found = {"corners": [], "edges": [], "watershed": []}
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [n for n in archive.namelist() if "test/masks/" in n]
        for name in names:
            if not name.endswith(".tif"):
                continue
            true = tifffile.imread(io.BytesIO(archive.read(name)))
            for kind, labels in (
                ("corners", objects.components(true > 0)),
                ("edges", objects.components(true > 0, 1)),
                ("watershed", objects.watershed(true > 0, 2.0, 5)),
            ):
                found[kind].append(matching.match(true, labels))
    ap = {kind: matching.scores(m)["ap50"] for kind, m in found.items()}
    assert len(found["edges"]) == 50
    assert ap["edges"] == pytest.approx(0.749, abs=5e-4)
    assert ap["corners"] == pytest.approx(0.7395, abs=5e-4)
    assert ap["watershed"] > 0.89


def test_filling_gaps_undoes_the_gap_that_is_taught():
    """The gap is foreground again; a pixel in it has either id."""
    truth = np.zeros((30, 40), np.int32)
    truth[4:20, 3:15], truth[6:22, 15:30] = 1, 2
    truth[24:28, 3:9] = 3
    taught = targets.classes_with_gap((truth > 0).astype(np.uint8), truth, 1)
    found = objects.components(taught > 0, 1)
    assert found.max() == 3 and (found == 0).sum() > (truth == 0).sum()
    filled = objects.fill_gaps(found, 1)
    assert not filled[truth == 0].any()
    assert (filled == 0).sum() - (truth == 0).sum() <= 1  # the gap's end
    np.testing.assert_array_equal(filled[found > 0], truth[found > 0])


def test_filling_gaps_leaves_a_single_object_and_wide_gaps_alone():
    labels = np.zeros((20, 20), np.int32)
    labels[2:8, 2:8], labels[2:8, 11:17] = 1, 2
    np.testing.assert_array_equal(objects.fill_gaps(labels, 1), labels)
    grown = objects.fill_gaps(labels, 3)
    assert (grown[3:7, 8:11] > 0).all() and not grown[10:].any()
    alone = np.where(labels == 1, labels, 0)
    np.testing.assert_array_equal(objects.fill_gaps(alone, 3), alone)
