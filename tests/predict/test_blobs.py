import dataclasses
import time

import numpy as np
import pytest
from scipy import ndimage
from skimage import draw, measure

from seg import config
from seg.images import formats
from seg.predict import blobs, shapes

NAMES = ("background", "nucleus")
THREE = ("background", "bead", "cell")


def _noise(seed, shape=(60, 70), sigma=1.5):
    field = np.random.default_rng(seed).normal(size=shape)
    field = ndimage.gaussian_filter(field, sigma)
    return (field - field.min()) / np.ptp(field)


def _one_hot(classes, n_classes):
    """Probabilities that are sure of a class map."""
    return np.eye(n_classes, dtype=np.float32)[classes]


def _detect(classes, names=NAMES, image=None, **knobs):
    classes = np.asarray(classes)
    probabilities = _one_hot(classes, len(names))
    return blobs.detect(probabilities, image, config.Predict(**knobs), names)


def test_one_channel_is_thresholded_and_several_compete():
    one = np.array([[[0.2], [0.5], [0.51]]])
    assert blobs.classes_from(one, 0.5).tolist() == [[0, 0, 1]]
    assert blobs.classes_from(one, 0.1).tolist() == [[1, 1, 1]]
    many = np.array([[[0.4, 0.4, 0.2], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]]])
    classes = blobs.classes_from(many, 0.9)
    assert classes.dtype == np.uint8
    assert classes.tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_nan_is_never_a_class(n_channels):
    probabilities = np.full((4, 5, n_channels), 0.3, np.float32)
    probabilities[2, 3, -1] = np.nan
    with pytest.raises(config.UserError, match="NaN"):
        blobs.classes_from(probabilities, 0.5)


def _closed_by_definition(mask, side):
    """A pixel is closed where every square that holds it meets the mask."""
    n_rows, n_cols = mask.shape
    room = np.pad(mask, side)
    hits = {
        (r, c): room[r : r + side, c : c + side].any()
        for r in range(n_rows + side + 1)
        for c in range(n_cols + side + 1)
    }
    out = np.empty_like(mask)
    for r in range(n_rows):
        for c in range(n_cols):
            out[r, c] = all(
                hits[r + side - i, c + side - j]
                for i in range(side)
                for j in range(side)
            )
    return out


@pytest.mark.parametrize("side", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("share", [0.08, 0.3])
def test_closing_equals_its_definition(side, share):
    mask = np.random.default_rng(side).random((13, 17)) < share
    closed = blobs.closing(mask, side)
    np.testing.assert_array_equal(closed, _closed_by_definition(mask, side))
    np.testing.assert_array_equal(blobs.closing(closed, side), closed)


def test_closing_equals_scipy_far_from_the_border():
    mask = np.pad(_noise(1) > 0.7, 40)
    square = np.ones((5, 5))
    oracle = ndimage.binary_closing(mask, square, iterations=7)
    np.testing.assert_array_equal(blobs.closing(mask, 29), oracle)


def test_closing_does_not_shrink_an_object_in_the_corner():
    mask = np.zeros((100, 90), bool)
    mask[:30, :30] = mask[-30:, -30:] = True
    np.testing.assert_array_equal(blobs.closing(mask, 29), mask)
    square = np.ones((5, 5))
    eroded = ndimage.binary_closing(mask, square, iterations=7)
    assert eroded[:50].sum() == 256  # what the defect was


@pytest.mark.parametrize("side", [0, 1, 29])
def test_closing_of_empty_full_and_single_pixel_masks(side):
    for shape in ((1, 1), (1, 9), (20, 3)):
        for mask in (np.zeros(shape, bool), np.ones(shape, bool)):
            closed = blobs.closing(mask, side)
            np.testing.assert_array_equal(closed, mask)
            assert not np.shares_memory(closed, mask)


def _check_against_regionprops(found, image, probability):
    regions = measure.regionprops(found.labels, image.mean(2))
    sure = measure.regionprops(found.labels, probability)
    assert len(regions) == len(found.table)
    for row, region, prob in zip(found.table, regions, sure, strict=True):
        assert row["label"] == region.label
        assert row["area_px"] == region.area
        box = [row[f"bbox_{k}"] for k in ("row0", "col0", "row1", "col1")]
        assert box == list(region.bbox)
        pixels = image[found.labels == region.label].astype(float)
        round_ = 4 * np.pi * region.area / region.perimeter_crofton**2
        theirs = {
            "row": region.centroid[0],
            "col": region.centroid[1],
            "mean_intensity": region.intensity_mean,
            "eccentricity": region.eccentricity,
            "solidity": region.solidity,
            "probability": prob.intensity_mean,
            "perimeter_px": region.perimeter_crofton,
            "circularity": min(round_, 1),
            "diameter_px": region.equivalent_diameter_area,
            "major_axis_px": region.axis_major_length,
            "minor_axis_px": region.axis_minor_length,
            "extent": region.extent,
            "min_intensity": pixels.min(),
            "max_intensity": pixels.max(),
            "std_intensity": pixels.std(),
            "total_intensity": pixels.sum(),
        }
        if image.shape[2] > 1:
            for i, mean in enumerate(pixels.mean(0)):
                theirs[f"mean_intensity_{i}"] = mean
        ours = [row[name] for name in theirs]
        np.testing.assert_allclose(
            ours, [*theirs.values()], rtol=1e-6, atol=1e-4
        )
        if region.axis_major_length > region.axis_minor_length + 1e-6:
            turned = np.radians(row["angle_deg"] - 90) - region.orientation
            assert abs(np.sin(turned)) < 1e-6
    _check_neighbours(found)


def _check_neighbours(found):
    centres = np.array([(row["row"], row["col"]) for row in found.table])
    shape = np.array(found.labels.shape)
    for i, row in enumerate(found.table):
        low = np.array([row["bbox_row0"], row["bbox_col0"]])
        high = np.array([row["bbox_row1"], row["bbox_col1"]])
        assert row["at_border"] == ((low == 0).any() or (high == shape).any())
        far = np.hypot(*(centres - centres[i]).T)
        far[i] = np.inf
        if len(far) > 1:
            assert abs(row["nearest_px"] - far.min()) < 1e-9
        else:
            assert np.isnan(row["nearest_px"])


@pytest.mark.parametrize("separate", ["components", "watershed"])
@pytest.mark.parametrize(
    ("sigma", "level"), [(0.6, 0.55), (1.5, 0.5), (4, 0.6)]
)
def test_measurements_equal_regionprops(separate, sigma, level):
    probability = _noise(3, (90, 110), sigma)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 65536, (90, 110, 2)).astype(np.uint16)
    predict = config.Predict(threshold=level, separate=separate)
    found = blobs.detect(probability[..., None], image, predict, NAMES)
    assert len(found.table) > 3
    _check_against_regionprops(found, image, probability)


def test_measurements_of_many_shapes_equal_regionprops():
    """Convex hulls above all: lines, stars, dots, ellipses at any angle."""
    labels = np.zeros((400, 400), np.int32)
    rng = np.random.default_rng(8)
    for label in range(1, 101):
        row, col = divmod(label - 1, 10)
        part = labels[row * 40 : row * 40 + 39, col * 40 : col * 40 + 39]
        kind = label % 5
        if kind == 0:
            at = draw.line(*rng.integers(0, 39, 4))
        elif kind == 1:
            at = draw.ellipse(
                19, 19, *rng.integers(1, 19, 2), part.shape, rng.uniform(0, 3)
            )
        elif kind == 2:
            corners = rng.integers(0, 39, (2, 6))
            at = draw.polygon(*corners, part.shape)
        elif kind == 3:  # in pieces, with empty rows between
            at = tuple(rng.integers(0, 39, (2, rng.integers(1, 7))))
        else:
            at = np.nonzero(rng.random((39, 39)) < rng.uniform(0.01, 0.9))
        part[at] = label
        part[3, 5] = label
    result = shapes.measure(shapes.Runs.of(labels), 100)
    for label, region in enumerate(measure.regionprops(labels)):
        assert result.area[label] == region.area
        assert tuple(result.box[label]) == region.bbox
        found = (
            result.row[label],
            result.col[label],
            result.eccentricity[label],
            result.solidity[label],
        )
        oracle = (*region.centroid, region.eccentricity, region.solidity)
        np.testing.assert_allclose(found, oracle, rtol=1e-6, atol=1e-6)


def test_tiny_objects_at_the_border_are_found_and_measured():
    classes = np.zeros((6, 8), np.uint8)
    classes[0, 0] = classes[5, 7] = classes[0, 6] = classes[0, 7] = 1
    classes[4:6, 0] = classes[5, 1] = 1
    image = np.arange(48, dtype=np.uint8).reshape(6, 8, 1)
    found = _detect(classes, image=image)
    assert [row["area_px"] for row in found.table] == [1, 2, 3, 1]
    assert found.table[0]["eccentricity"] == 0
    assert found.table[0]["solidity"] == 1
    assert found.table[3]["mean_intensity"] == 47
    _check_against_regionprops(found, image, (classes == 1).astype(float))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (7, 9)])
@pytest.mark.parametrize("separate", ["components", "watershed"])
def test_empty_and_full_images(shape, separate):
    knobs = {"separate": separate, "closing": 5, "fill_holes": True}
    nothing = _detect(np.zeros(shape, int), **knobs)
    assert nothing.table == [] and not nothing.labels.any()
    assert nothing.labels.shape == nothing.classes.shape == shape
    full = _detect(np.ones(shape, int), **knobs)
    assert len(full.table) == 1
    assert full.labels.dtype == np.int32 and full.labels.all()
    assert full.classes.dtype == np.uint8 and full.classes.all()
    assert full.table[0]["area_px"] == shape[0] * shape[1]
    assert np.isnan(full.table[0]["mean_intensity"])


def test_the_table_has_the_columns_of_the_contract_as_plain_values():
    found = _detect([[0, 1], [0, 0]])
    (row,) = found.table
    assert tuple(row) == tuple(f for f in formats.FIELDS if f != "image")
    assert row["class"] == "nucleus" and row["probability"] == 1
    assert {type(value) for value in row.values()} == {int, float, str}


def test_ids_run_in_raster_order_over_all_classes():
    classes = [[2, 0, 1, 0, 2], [0, 0, 0, 0, 0], [1, 1, 0, 2, 2]]
    found = _detect(classes, THREE)
    expected = [[1, 0, 2, 0, 3], [0, 0, 0, 0, 0], [4, 4, 0, 5, 5]]
    np.testing.assert_array_equal(found.labels, expected)
    kinds = [row["class"] for row in found.table]
    assert kinds == ["cell", "bead", "cell", "bead", "cell"]
    np.testing.assert_array_equal(found.classes, classes)


def test_objects_of_different_classes_do_not_join():
    classes = np.zeros((10, 20), np.uint8)
    classes[2:8, 2:10], classes[2:8, 10:18] = 1, 2
    found = _detect(classes, THREE)
    assert [row["area_px"] for row in found.table] == [48, 48]


def test_a_closing_takes_background_but_no_other_class():
    classes = np.zeros((9, 21), np.uint8)
    classes[2:7, 2:7] = classes[2:7, 10:15] = 1
    classes[4, 8] = 2  # in the gap that closes
    found = _detect(classes, THREE, closing=5)
    expected = np.zeros((9, 21), np.uint8)
    expected[2:7, 2:15] = 1
    expected[4, 8] = 2
    np.testing.assert_array_equal(found.classes, expected)
    assert [row["area_px"] for row in found.table] == [64, 1]
    # a speck that is filtered out leaves the pixel to the closing
    clean = _detect(classes, THREE, closing=5, min_area=(1, 2))
    assert [row["area_px"] for row in clean.table] == [65]


def test_what_another_class_takes_does_not_count_for_the_area():
    classes = np.full((3, 7), 2, np.uint8)
    classes[1, [1, 3, 5]] = 1  # closed to 5 px, of which class 2 keeps 2
    found = _detect(classes, THREE, closing=3, min_area=(4, 1))
    assert {row["class"] for row in found.table} == {"cell"}
    assert all(row["area_px"] >= 1 for row in found.table)


def test_filters_by_class_holes_and_border():
    classes = np.zeros((20, 30), np.uint8)
    classes[0:6, 0:6] = 1
    classes[8:14, 8:14] = 1
    classes[10:12, 10:12] = 0
    classes[8:11, 20:23] = 2
    classes[15, 25] = 1

    def areas(**knobs):
        return [r["area_px"] for r in _detect(classes, THREE, **knobs).table]

    assert areas() == [36, 32, 9, 1]
    assert areas(min_area=(2,)) == [36, 32, 9]
    assert areas(min_area=(33, 1)) == [36, 9]
    assert areas(min_area=(33, 10)) == [36]
    assert areas(fill_holes=True, min_area=(33, 10)) == [36, 36]
    assert areas(drop_border=True) == [32, 9, 1]
    found = _detect(classes, THREE, drop_border=True, min_area=(2, 100))
    assert np.unique(found.labels).tolist() == [0, 1]
    assert np.unique(found.classes).tolist() == [0, 1]


@pytest.mark.parametrize("calibration", [(), (2.0, -1.0)])
def test_objects_reach_the_least_probability_of_their_table(calibration):
    prob = _noise(5)[:, :, None].astype(np.float32)
    predict = config.Predict(threshold=0.5, calibration=calibration)
    every = blobs.detect(prob, None, predict, NAMES)
    known = np.array([row["probability"] for row in every.table])
    least = float(np.median(known))
    predict = dataclasses.replace(predict, min_probability=least)
    found = blobs.detect(prob, None, predict, NAMES)
    kept = known >= least
    assert 0 < kept.sum() < len(kept)
    expected = np.isin(every.labels, np.flatnonzero(kept) + 1)
    np.testing.assert_array_equal(found.labels > 0, expected)
    assert [row["probability"] for row in found.table] == list(known[kept])
    areas = blobs.areas(prob, predict, NAMES)
    assert sorted(areas) == sorted(row["area_px"] for row in found.table)


def test_margins_by_class_are_clipped_to_the_image():
    classes = np.zeros((20, 30), np.uint8)
    classes[1:3, 5:7], classes[10:12, 26:29] = 1, 2
    found = _detect(classes, THREE, margin=(3, 5))
    boxes = [
        [row[f"bbox_{k}"] for k in ("row0", "col0", "row1", "col1")]
        for row in found.table
    ]
    assert boxes == [[0, 2, 6, 10], [5, 21, 17, 30]]


def test_the_settings_of_the_thesis_are_a_config():
    """Cardiomyocytes and half-collapsed ones; the third class is no object."""
    names = ("background", "collapsed", "cardiomyocyte", "half_collapsed")
    thesis = config.check(
        dataclasses.replace(
            config.Config(),
            model=config.Model(n_classes=4),
            classes=names,
            predict=config.Predict(
                closing=29,
                min_area=(10**9, 10_000, 10_000),
                margin=(0, 30, 50),
            ),
        )
    )
    classes = np.zeros((500, 600), np.uint8)
    classes[draw.disk((80, 80), 65)] = 2  # in two parts, 20 px apart
    classes[60:80] = 0
    classes[draw.disk((80, 500), 50)] = 2  # too small
    classes[330:500, 400:600] = 3  # in a corner
    classes[330:500, 0:200] = 1
    classes[100, 300] = 2
    found = blobs.detect(
        _one_hot(classes, 4), None, thesis.predict, thesis.classes
    )
    kinds = [row["class"] for row in found.table]
    assert kinds == ["cardiomyocyte", "half_collapsed"]
    whole, corner = found.table
    mask = blobs.closing(classes == 2, 29)
    assert whole["area_px"] == mask[:200, :300].sum() > 10_000
    assert corner["area_px"] == 170 * 200  # not eroded
    assert (corner["bbox_row0"], corner["bbox_col0"]) == (280, 350)
    assert (corner["bbox_row1"], corner["bbox_col1"]) == (500, 600)


@pytest.mark.parametrize(
    ("n_channels", "names", "knobs", "words"),
    [
        (3, NAMES, {}, "2 names, the model gives 3"),
        (1, THREE, {}, "3 names, the model gives 2"),
        (3, THREE, {"min_area": (1, 2, 3)}, "predict.min_area"),
        (3, THREE, {"margin": ()}, "predict.margin"),
    ],
)
def test_knobs_that_do_not_fit_are_refused(n_channels, names, knobs, words):
    probabilities = np.full((4, 4, n_channels), 0.4)
    with pytest.raises(config.ConfigError, match=words):
        blobs.detect(probabilities, None, config.Predict(**knobs), names)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="differ in rows"):
        _detect(np.ones((4, 4), int), image=np.zeros((4, 5, 1)))


def test_detection_leaves_its_input_alone_and_repeats():
    probabilities = _noise(5)[..., None]
    image = np.random.default_rng(0).random((60, 70, 1))
    before = probabilities.copy(), image.copy()
    predict = config.Predict(separate="watershed", closing=3, fill_holes=True)
    one = blobs.detect(probabilities, image, predict, NAMES)
    two = blobs.detect(
        np.asfortranarray(probabilities),
        image[:, ::-1][:, ::-1],
        predict,
        NAMES,
    )
    assert one.table == two.table
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(probabilities, before[0])
    np.testing.assert_array_equal(image, before[1])


def test_two_thousand_objects_take_a_moment():
    """0.2 and 0.6 s of processor time on one core; room for slow ones."""
    mask = np.zeros((2048, 2048), bool)
    rng = np.random.default_rng(0)
    for row, col in rng.integers(20, 2028, (2000, 2)):
        mask[draw.disk((row, col), rng.uniform(8, 15))] = True
    probabilities = mask[..., None].astype(np.float32)
    for separate, limit_s in (("components", 2.0), ("watershed", 5.0)):
        begin = time.process_time()
        predict = config.Predict(separate=separate)
        found = blobs.detect(probabilities, None, predict, NAMES)
        assert time.process_time() - begin < limit_s
        assert len(found.table) > 900
