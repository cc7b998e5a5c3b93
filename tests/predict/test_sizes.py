"""Images whose objects are of another size than those of the training."""

import dataclasses
import itertools

import numpy as np
import pytest
import tifffile
from flax import nnx

from seg import config, models, normalize
from seg.images import resize
from seg.predict import bundle, predictor, scaled

TRAINED = 12.0  # px


@pytest.fixture(scope="module")
def model():
    """A network by hand: both of its maps are the image, made steep."""
    knobs = config.replace(
        config.Config(),
        {
            "model.width": 1, "model.depth": 0, "model.norm": "none",
            "model.stem": 1, "model.objects": "distance",
            "data.normalize": "range", "data.diameter": TRAINED,
            "predict.separate": "learned",
        },
    )  # fmt: skip
    network = nnx.eval_shape(lambda: models.build(knobs.model, nnx.Rngs(0)))
    weights = {}
    for path, value in nnx.to_flat_state(nnx.state(network)):
        array = np.zeros(value.shape, np.float32)
        if path[-1] == "kernel":  # the pixel itself, of the first channel
            array[array.shape[0] // 2, array.shape[1] // 2, 0, 0] = 1
        weights["/".join(map(str, path))] = array
    weights["head/kernel"][0, 0, 0, :] = 8
    weights["head/bias"][:] = -4
    return bundle.Bundle(knobs, weights)


def discs(diameter, n_rows=4, n_cols=5, gap=1.3):
    """An image of discs, brightest in the middle, and how many there are."""
    pitch = diameter * gap
    shape = round(n_rows * pitch), round(n_cols * pitch)
    row, col = (np.abs((np.arange(n) + 0.5) % pitch - pitch / 2) for n in shape)
    away = np.hypot(row[:, None], col) / (diameter / 2)
    bright = np.clip(1 - away / 2, 0, 1)
    return (255 * bright).astype(np.uint8), n_rows * n_cols


def use(model, **settings):
    predict = dataclasses.replace(model.config.predict, **settings)
    return predictor.Predictor(model, predict, engine="jax")


def test_discs_are_found_as_they_are(model):
    image, n = discs(TRAINED)
    found = use(model)(image)
    assert found.labels.max() == n and found.labels.shape == image.shape
    areas = [row["area_px"] for row in found.table]
    assert np.median(areas) == pytest.approx(np.pi / 4 * TRAINED**2, rel=0.1)


@pytest.mark.parametrize("diameter", [4.0, 50.0])
def test_other_sizes_are_seen_at_that_of_the_training(model, diameter):
    image, n = discs(diameter)
    one = use(model)
    stats = normalize.measure(image[..., None])
    zoom = one.zoom(lambda a, b: image[a:b, :, None], image.shape, stats)
    assert zoom == pytest.approx(TRAINED / diameter, rel=0.15)
    found = one(image)
    # in the image's own pixels
    assert found.labels.shape == image.shape
    assert found.labels.max() == n
    areas = [row["area_px"] for row in found.table]
    assert np.median(areas) == pytest.approx(np.pi / 4 * diameter**2, rel=0.25)


def test_specks_do_not_tell_the_size(model):
    image, _ = discs(TRAINED, 12, 12)
    row, col = np.random.default_rng(0).integers(0, len(image), (2, 400))
    for pixels, most in ((image, 1), (np.zeros_like(image), 4)):
        pixels[row, col] = 255
        zoom = use(model).zoom(
            lambda a, b, p=pixels: p[a:b, :, None],
            pixels.shape,
            normalize.measure(pixels[..., None]),
        )
        assert 1 <= zoom <= most


@pytest.mark.parametrize("shift", [0, 37, 71])
def test_large_objects_of_the_trained_size_stay_as_they_are(model, shift):
    data = dataclasses.replace(model.config.data, diameter=200.0)
    large = dataclasses.replace(
        model, config=dataclasses.replace(model.config, data=data)
    )
    image, _ = discs(200.0, 6, 7)
    image = np.roll(image, (shift, 2 * shift), (0, 1))
    stats = normalize.measure(image[..., None])
    zoom = use(large).zoom(lambda a, b: image[a:b, :, None], image.shape, stats)
    assert zoom == 1


def test_of_a_large_image_five_places_tell(model):
    image, n = discs(40.0, n_rows=14, n_cols=22)
    assert max(image.shape) > 1024
    stats, asked = normalize.measure(image[..., None]), []

    def rows(top, bottom):
        asked.append((top, bottom))
        return image[top:bottom, :, None]

    zoom = use(model).zoom(rows, image.shape, stats)
    assert zoom == pytest.approx(TRAINED / 40, rel=0.15)
    sides = [bottom - top for top, bottom in asked]
    assert max(sides[:5]) <= 256
    assert len(asked) == 10  # once more, as small as they look to be
    assert use(model)(image).labels.max() == n


@pytest.mark.parametrize("diameter", [9.0, 20.0, 30.0])
def test_what_is_nearly_as_large_stays_as_it_is(model, diameter):
    image, _ = discs(diameter)
    plain = use(model, rescale=False).probabilities(image)
    np.testing.assert_array_equal(use(model).probabilities(image), plain)


@pytest.mark.parametrize(
    ("given", "zoom"),
    [({"diameter": 30.0}, 0.4), ({"diameter": 5.0}, 2.4),
     ({"pixel_size": 1.5}, 3.0)],
)  # fmt: skip
def test_a_size_that_is_told_is_the_one(model, given, zoom):
    data = dataclasses.replace(model.config.data, pixel_size=0.5)
    known = dataclasses.replace(
        model, config=dataclasses.replace(model.config, data=data)
    )
    image, _ = discs(TRAINED)
    found = use(known, **given).probabilities(image)
    shape = tuple(round(zoom * n) for n in image.shape)
    small = resize.linear(image[..., None], shape)
    plain = use(known, rescale=False)
    stats = normalize.measure(image[..., None])
    wanted = resize.linear(plain.probabilities(small, stats), image.shape)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def knowing(model, pixel_size):
    data = dataclasses.replace(model.config.data, pixel_size=pixel_size)
    changed = dataclasses.replace(model.config, data=data)
    return dataclasses.replace(model, config=changed)


def test_the_size_that_the_file_says_is_the_one(model, tmp_path):
    known = knowing(model, 0.5)
    image, _ = discs(TRAINED)
    tags = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", image, **tags)
    found = use(known)(tmp_path / "a.tif", probabilities=True)
    told = use(known, pixel_size=1.0).probabilities(image)
    np.testing.assert_array_equal(found.probabilities, told[..., :1])
    assert found.pixel_size == (1.0, 1.0)
    for row in found.table:
        assert row["area_um2"] == row["area_px"]
    array = use(known)(image, pixel_size=(1.0, 1.0), probabilities=True)
    np.testing.assert_array_equal(array.probabilities, found.probabilities)
    # what the user says outranks it
    other = use(known, pixel_size=0.25)(tmp_path / "a.tif")
    assert other.pixel_size == (0.25, 0.25)
    assert "area_um2" not in use(known)(image).table[0]


def test_a_size_in_the_file_counts_only_where_it_can(model, caplog):
    image, _ = discs(TRAINED)
    plain = use(model, rescale=False).probabilities(image)
    for one, size in (
        (use(model), (9.0, 9.0)),  # which has not learned its own
        (use(knowing(model, 0.5), rescale=False), (1.0, 1.0)),
        (use(knowing(model, 0.5)), (500.0, 500.0)),
    ):
        found = one.probabilities(image, None, size)
        np.testing.assert_array_equal(found, plain)
    assert "500 um" in caplog.text and "--predict.pixel_size" in caplog.text


@pytest.mark.parametrize("shape", [(5, 7), (60, 1), (1, 1)])
def test_images_of_any_size_can_be_seen_smaller(model, shape):
    image = np.full(shape, 200, np.uint8)
    found = use(model, diameter=190.0)(image)
    assert found.labels.shape == shape and (found.labels == 1).all()


@pytest.mark.parametrize(
    ("given", "text"),
    [({"diameter": 0.0}, "predict.diameter=0"),
     ({"diameter": -3.0}, "predict.diameter=-3"),
     ({"diameter": 1e6}, "check its unit"),
     ({"diameter": 1e-3}, "check its unit"),
     ({"pixel_size": 0.3, "diameter": 9.0}, "give one of them")],
)  # fmt: skip
def test_a_size_that_cannot_be_is_refused(model, given, text):
    with pytest.raises(config.UserError) as caught:
        use(model, **given)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_of_resized_images_takes_no_size(model):
    changes = {"data.resize": 64, "data.tile": 64}
    small = dataclasses.replace(
        model, config=config.replace(model.config, changes)
    )
    with pytest.raises(config.UserError, match="64 x 64 px"):
        use(small, diameter=9.0)


def test_a_size_that_the_model_does_not_know_is_measured_by(model):
    image, n = discs(TRAINED)
    found = use(model, pixel_size=0.5)(image)
    plain = use(model)(image)
    np.testing.assert_array_equal(found.labels, plain.labels)
    assert found.pixel_size == (0.5, 0.5) and len(found.table) == n
    for row in found.table:
        assert row["area_um2"] == pytest.approx(row["area_px"] / 4)


def test_objects_as_wide_as_half_the_image_are_not_believed():
    def zoom(diameter, side):
        areas = np.full(4, np.pi / 4 * diameter**2)
        return scaled.at_first_sight(
            (side, 900), 10.0, lambda place, zoom: areas
        )

    assert zoom(100.0, 210) == pytest.approx(0.1)
    assert zoom(100.0, 190) == 1


def first_sight(found, side=900, trained=10.0):
    """The zoom where `found(zoom)` are the diameters, and what was asked."""
    asked = []

    def look(place, zoom):
        asked.append(zoom)
        return np.pi / 4 * np.array(found(zoom), float) ** 2

    return scaled.at_first_sight((side, side), trained, look), asked


def test_a_lone_large_object_is_found_from_far_away():
    """A network sees nothing, or specks, of what is far too large for it."""
    for specks in ([], [3], [3] * 9):
        zoom, asked = first_sight(lambda z, s=specks: [90] if z < 0.2 else s)
        assert zoom == 0.125 and asked == [1, 0.25, 0.125]
    zoom, asked = first_sight(lambda z: [300] if z < 0.2 else [])
    assert zoom == 1 / 16 and asked == [1, 0.25, 0.125, 1 / 16]
    # as wide as half the image: a background
    assert first_sight(lambda z: [500] if z < 0.2 else [])[0] == 1


def test_several_likely_objects_are_believed():
    """As nuclei are in cells which look from afar as nuclei do."""
    zoom, asked = first_sight(lambda z: [12] * 3 if z == 1 else [90] * 9)
    assert zoom == 1 and asked == [1]
    zoom, _ = first_sight(lambda z: [12] * 2 if z == 1 else [20])
    assert zoom == 1  # not far more from afar


def test_what_looks_too_large_is_looked_at_again():
    def parts(zoom):
        return [50] * 4 if zoom == 1 else [200] * 4 if zoom > 0.1 else [190] * 4

    zoom, asked = first_sight(parts)
    assert zoom == pytest.approx(1 / 16) and asked == [1, 0.2, 1 / 16]
    # it was too much: as the second look says
    zoom, _ = first_sight(lambda z: [50] * 4 if z == 1 else [25] * 4)
    assert zoom == pytest.approx(0.4)


def test_few_objects_and_none_tell_nothing(model):
    image = np.zeros((80, 80), np.uint8)
    for n in (0, 2):
        image[4 : 4 + n, 4 : 4 + n] = 255
        stats = normalize.measure(image[..., None])
        one = use(model)
        zoom = one.zoom(lambda a, b: image[a:b, :, None], image.shape, stats)
        assert zoom == 1


# --- Strips of the view


@pytest.mark.parametrize("zoom", [0.13, 0.5, 0.77, 1.9, 3.3])
def test_strips_of_the_view_become_strips_of_the_image(zoom):
    draw = np.random.default_rng(3)
    image = draw.random((61, 34, 2)).astype(np.float32)
    view = scaled.View(image.shape[:2], zoom)
    whole = resize.linear(image, view.shape)
    rows = view.rows(lambda top, bottom: image[top:bottom])
    assert view.shape == tuple(round(zoom * n) for n in (61, 34))
    cut = [0, *np.sort(draw.integers(1, view.shape[0], 4)), view.shape[0]]
    cut = np.unique(cut)
    for top, bottom in itertools.pairwise(cut):
        strip = rows(int(top), int(bottom))
        np.testing.assert_array_equal(strip, whole[top:bottom])
    wanted = resize.linear(whole, (61, 34))
    for start in (0, 17, 60):
        first = view.first(start)
        begin = int(cut[np.searchsorted(cut, first, "right") - 1])
        tops = [int(top) for top in cut if begin <= top < view.shape[0]]
        ends = [*tops[1:], view.shape[0]]
        stream = (
            (top, whole[top:end]) for top, end in zip(tops, ends, strict=True)
        )
        strips = list(view.back(stream, start))
        assert strips[0][0] == start
        back = np.concatenate([strip for _, strip in strips])
        np.testing.assert_array_equal(back, wanted[start:])
