"""Claims about the predictor: any image in, classes, labels and a table out."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

import seg
from seg import config, images, normalize
from seg.images import formats
from seg.predict import blobs, bundle, export, predictor, stitch
from seg.predict import objects as objects_lib
from seg.predict.engine import xla


def grey(*shape):
    draw = np.random.default_rng(shape)
    return draw.integers(0, 255, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def use(tiny):
    return predictor.Predictor(tiny, engine="jax")


def test_it_is_measure_stitch_and_detect(use, tiny):
    image = grey(50, 70, 1)
    found = use(image, probabilities=True)
    stats = normalize.measure(image)
    run = xla.Xla(bundle.model(tiny), "percentile").run
    wanted = stitch.stitch(
        image,
        lambda batch: run(batch, stats),
        window=32,
        overlap=0.25,
        batch_size=4,
        align=4,
    )
    np.testing.assert_array_equal(found.probabilities, wanted)
    objects = blobs.detect(wanted, image, tiny.config.predict, use.classes)
    np.testing.assert_array_equal(found.labels, objects.labels)
    np.testing.assert_array_equal(found.classes, objects.classes)
    assert [row["label"] for row in found.table] == list(
        range(1, found.labels.max() + 1)
    )
    assert found.labels.max() > 0


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 40), (3, 2), (32, 32), (33, 31), (40, 90)]
)
def test_the_output_has_the_images_shape(use, shape):
    found = use(grey(*shape), probabilities=True)
    assert found.labels.shape == found.classes.shape == shape
    assert found.probabilities.shape == (*shape, 1)
    assert (found.labels.dtype, found.classes.dtype) == (np.int32, np.uint8)
    assert np.isfinite(found.probabilities).all()


def test_the_map_is_kept_on_request_only(use):
    assert use(grey(32, 32)).probabilities is None


def test_a_constant_image_is_no_error(use):
    found = use(np.full((32, 32), 7, np.uint16), probabilities=True)
    assert np.isfinite(found.probabilities).all()


def test_intensity_is_scaled_away(use):
    image = grey(40, 40)
    wanted = use.probabilities(image)
    for same in (
        image.astype(np.uint16) * 200 + 5,
        image / 255.0,
        image.astype(np.int64),
        image.astype(np.float16),
    ):
        np.testing.assert_allclose(use.probabilities(same), wanted, atol=2e-3)
    binary = image > 99
    np.testing.assert_array_equal(
        use.probabilities(binary), use.probabilities(binary * np.uint8(255))
    )


def test_colour_is_taken_as_grey_and_grey_as_colour(use, make_bundle):
    image = grey(32, 32)
    three = np.repeat(image[..., None], 3, -1)
    np.testing.assert_array_equal(
        use.probabilities(three), use.probabilities(image)
    )
    colour = predictor.Predictor(make_bundle(model__in_channels=3))
    np.testing.assert_array_equal(
        colour.probabilities(image), colour.probabilities(three)
    )


def test_a_file_gives_what_its_pixels_give(use, tmp_path):
    image = grey(40, 33)
    Image.fromarray(image).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", image)
    wanted = use(image)
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.tif"),
        (tmp_path / "a.png").read_bytes(),
    ):
        np.testing.assert_array_equal(use(source).labels, wanted.labels)
    assert use(tmp_path / "a.png").table[0]["image"] == str(tmp_path / "a.png")


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((2, 3, 4, 5)), "one plane of a stack"),
        (np.zeros((3, 40, 40)), "channels last"),
        (np.zeros((0, 4)), "empty"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.zeros((8, 8, 2), np.uint8), "2 channels"),
        ("nowhere.png", "nowhere.png: no such file"),
    ],
)
def test_unusable_images_are_refused_in_one_line(use, image, message):
    with pytest.raises(images.ImageError, match=message) as caught:
        use(image)
    assert "\n" not in str(caught.value)


def test_settings_replace_the_bundles(tiny):
    image = grey(40, 40)
    settings = dataclasses.replace(tiny.config.predict, min_area=(30,))
    found = predictor.Predictor(tiny, settings)(image).table
    assert found
    assert all(row["area_px"] >= 30 for row in found)
    wrong = dataclasses.replace(settings, tta=3)
    with pytest.raises(config.UserError, match=r"predict\.tta=3"):
        predictor.Predictor(tiny, wrong)


def test_eight_views_change_the_map_a_little(tiny):
    image = grey(32, 32)
    eight = dataclasses.replace(tiny.config.predict, tta=8)
    turned, plain = (
        predictor.Predictor(tiny, settings).probabilities(image)
        for settings in (eight, None)
    )
    assert 0 < np.abs(turned - plain).max() < 1


def test_the_table_is_written_as_csv(use, tmp_path):
    found = use(grey(40, 40), name="cell 1")
    found.table.to_csv(tmp_path / "objects.csv")
    rows = formats.read_table(tmp_path / "objects.csv")
    assert len(rows) == len(found.table) > 0
    assert rows[0].keys() == set(formats.FIELDS)
    assert {row["image"] for row in rows} == {"cell 1"}


def test_a_network_that_gives_nan_is_refused(tiny):
    broken = {k: v * np.float32(np.nan) for k, v in tiny.weights.items()}
    use = predictor.Predictor(dataclasses.replace(tiny, weights=broken))
    with pytest.raises(config.UserError, match="NaN"):
        use(grey(32, 32))


def test_few_windows_do_not_fill_a_batch_in_vain(tiny, monkeypatch):
    shapes = []
    run = xla.Xla.run

    def seen(self, batch, stats):
        shapes.append(batch.shape[:2])
        return run(self, batch, stats)

    monkeypatch.setattr(xla.Xla, "run", seen)
    use = predictor.Predictor(tiny, engine="jax")
    for shape in ((32, 32), (32, 50), (90, 90)):
        use.probabilities(grey(*shape))
    assert shapes == [(1, 32), (2, 32), *[(4, 32)] * 4]


@pytest.mark.parametrize(
    ("norm", "side"), [("none", 384), ("batch", 384), ("group", 64)]
)
def test_the_image_chooses_windows_unless_the_network_averages_over_them(
    make_bundle, monkeypatch, norm, side
):
    sides = set()
    run = xla.Xla.run

    def seen(self, batch, stats):
        sides.add(batch.shape[1])
        return run(self, batch, stats)

    monkeypatch.setattr(xla.Xla, "run", seen)
    made = make_bundle(predict__tile=0, data__tile=64, model__norm=norm)
    predictor.Predictor(made, engine="jax").probabilities(grey(330, 600))
    assert sides == {side}


def test_on_batch_stops_in_the_middle(tiny):
    class Stop(Exception):
        pass

    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 2:
            raise Stop

    use = predictor.Predictor(tiny, on_batch=stop)
    with pytest.raises(Stop):
        use(grey(90, 90))


def starve(monkeypatch, largest):
    """Makes the device too small for windows over `largest` px."""
    call = xla.Xla._call

    def starved(self, batch, stats):
        if batch.shape[1] > largest:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")
        return call(self, batch, stats)

    monkeypatch.setattr(xla.Xla, "_call", starved)


def test_out_of_memory_halves_the_window_and_says_so(tiny, monkeypatch, caplog):
    small = dataclasses.replace(tiny.config.predict, tile=16)
    wanted = predictor.Predictor(tiny, small, engine="jax").probabilities(
        grey(40, 40)
    )
    starve(monkeypatch, 16)
    found = predictor.Predictor(tiny, engine="jax").probabilities(grey(40, 40))
    np.testing.assert_array_equal(found, wanted)
    assert "windows of 16 px" in caplog.text


def test_no_window_that_fits_is_a_user_error(tiny, monkeypatch):
    starve(monkeypatch, 0)
    with pytest.raises(config.UserError, match="out of memory"):
        predictor.Predictor(tiny, engine="jax").probabilities(grey(40, 40))


def test_load_takes_folders_workdirs_and_settings(tiny, tmp_path):
    bundle.save(tiny, tmp_path / "run" / "bundle")
    for name in (tmp_path / "run" / "bundle", str(tmp_path / "run"), "run"):
        assert seg.load(name).classes == ("background", "nucleus")
    assert seg.load("run", tta=4, min_area=[3]).config.predict.tta == 4
    with pytest.raises(config.UserError, match=r"did you mean predict\.tta"):
        seg.load("run", tto=4)


def test_load_keeps_the_graph_it_had_to_make(tiny, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = bundle.save(tiny, tmp_path / "run" / "bundle")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    use = seg.load("run", engine="onnx")
    assert use._engine.name == "onnx"
    monkeypatch.setattr(export, "onnx", None)
    again = seg.load("run", engine="onnx")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    image = grey(40, 50)
    np.testing.assert_array_equal(
        use.probabilities(image), again.probabilities(image)
    )


def test_load_takes_names_of_the_zoo(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(seg, "ZOO", tmp_path / "zoo")
    bundle.save(tiny, tmp_path / "zoo" / "nuclei")
    (tmp_path / "nuclei").mkdir()  # a folder of images is in nobody's way
    assert seg.find("nuclei") == tmp_path / "zoo" / "nuclei"
    with pytest.raises(config.UserError, match="did you mean nuclei"):
        seg.find("nuclie")


@pytest.mark.parametrize(
    "made, message",
    [
        ((), "no model 'x': no such folder"),
        (("x/photo",), "x is no model"),
        (("x/checkpoints/3",), "has checkpoints but no model yet"),
    ],
)
def test_load_says_what_is_wrong(tmp_path, monkeypatch, made, message):
    monkeypatch.setattr(seg, "ZOO", tmp_path / "zoo")
    for name in made:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(config.UserError, match=message):
        seg.load("x")


def test_a_learned_map_is_apart_from_the_probabilities(make_bundle):
    made = make_bundle(
        model__objects="distance",
        predict__separate="learned",
        predict__prominence=0.0,
    )
    kernel = made.weights["head/kernel"]
    draw = np.random.default_rng(0)
    kernel[..., 1] = draw.normal(0, 5, kernel.shape[:-1])
    image = grey(50, 70, 1)
    channels = predictor.Predictor(made, engine="jax").probabilities(image)
    assert channels.shape == (50, 70, 2)
    use = predictor.Predictor(made, engine="jax")
    found = use(image, probabilities=True)
    np.testing.assert_array_equal(found.probabilities, channels[..., :1])
    wanted = objects_lib.learned(channels[..., 0] > 0.5, channels[..., 1], 0)
    np.testing.assert_array_equal(found.labels, wanted)
    assert wanted.max() > objects_lib.components(wanted > 0).max()


def test_a_model_without_a_learned_map_says_so_and_takes_components(
    make_bundle, caplog
):
    plain = make_bundle()
    knobs = dataclasses.replace(plain.config.predict, separate="learned")
    use = predictor.Predictor(plain, knobs, engine="jax")
    assert "has not learned to separate" in caplog.text
    image = grey(50, 70, 1)
    wanted = predictor.Predictor(plain, engine="jax")(image)
    np.testing.assert_array_equal(use(image).labels, wanted.labels)


def test_a_table_shows_its_first_rows_and_stays_a_list_of_dicts():
    rows = [
        {"image": "a.tif", "label": i, "class": "<b>&", "area_px": 1234.5678}
        for i in range(1, 1001)
    ]
    table = predictor.Table(rows)
    shown = repr(table)
    assert shown.startswith("1000 objects, 4 columns:\n")
    assert len(shown.splitlines()) < 10
    assert "1235" in shown and "1000" not in shown.partition("\n")[2]
    page = table._repr_html_()
    assert "&lt;b&gt;&amp;" in page and "<b>" not in page
    assert page.count("<tr>") == page.count("</tr>") < 10
    assert table == rows and json.loads(json.dumps(table)) == rows
    assert repr(predictor.Table()) == "0 objects"
    assert "0 objects" in predictor.Table()._repr_html_()
    assert repr(predictor.Table(rows[:1])).startswith("1 object,")
