"""The plugin of napari: the manifest, what it finds, and the form itself.

The model is made by hand: its probabilities are the image, made steep, so
that what is bright is an object, exactly.
"""

import configparser
import os
import pathlib
import time

import numpy as np
import pytest
from flax import nnx

import seg
from seg import config, models
from seg import napari as plugin
from seg.predict import bundle

ROOT = pathlib.Path(__file__).resolve().parent.parent
# (top, left, height, width) of the objects of each plane
PLANES = [
    [(2, 3, 8, 10), (20, 30, 9, 9)],
    [(5, 20, 6, 6), (20, 2, 10, 9), (30, 40, 8, 8)],
    [(1, 1, 12, 7), (16, 18, 5, 20)],
    [],
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a network of one pixel: steep, and half at half."""
    knobs = config.replace(
        config.Config(),
        {
            "model.width": 1, "model.depth": 0, "model.norm": "none",
            "model.stem": 1, "data.normalize": "range",
        },
    )  # fmt: skip
    network = nnx.eval_shape(lambda: models.build(knobs.model, nnx.Rngs(0)))
    weights = {}
    for path, value in nnx.to_flat_state(nnx.state(network)):
        array = np.zeros(value.shape, np.float32)
        if path[-1] == "kernel":
            array[array.shape[0] // 2, array.shape[1] // 2, 0, 0] = 1
        weights["/".join(map(str, path))] = array
    weights["head/kernel"][0, 0, 0, 0] = 8
    weights["head/bias"][:] = -4
    folder = tmp_path_factory.mktemp("plugin") / "model"
    bundle.save(bundle.Bundle(knobs, weights, {"licence": "CC0-1.0"}), folder)
    return str(folder)


def draw(boxes, dark=0):
    """An image of 40 x 50 px: objects at 255, one pixel at 0."""
    image = np.full((40, 50), dark, np.uint8)
    image[-1, -1] = 0
    for top, left, height, width in boxes:
        image[top : top + height, left : left + width] = 255
    return image


def stack():
    """The planes as [2, 2, H, W]."""
    planes = np.stack([draw(boxes) for boxes in PLANES])
    return planes.reshape(2, 2, *planes.shape[1:])


def run(*args, **kwargs):
    """(what `segment` returns, how often it yields before)."""
    steps, n = plugin.segment(*args, engine="jax", **kwargs), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, n
        n += 1


@pytest.mark.filterwarnings("default")
def test_the_manifest_is_valid_and_leads_to_what_is_there():
    npe2 = pytest.importorskip("npe2")
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    entry = setup["options.entry_points"]["napari.manifest"].strip()
    assert entry == "seg = seg:napari.yaml"
    manifest = npe2.PluginManifest.from_file(ROOT / "seg/napari.yaml")
    manifest.validate_imports()
    assert manifest.name == "seg"
    (widget,) = manifest.contributions.widgets
    (command,) = manifest.contributions.commands
    assert widget.command == command.id
    assert command.python_name == "seg.napari:widget"


def test_each_plane_is_an_image_and_no_id_comes_twice(model):
    image = stack()
    (labels, rows, failed), n_steps = run(image, model, name="cells")
    assert n_steps == 4
    assert not failed
    np.testing.assert_array_equal(labels > 0, image > 0)
    assert [row["label"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    alone = seg.load(model, engine="jax")
    for row in rows:
        assert row["index"] == row["label"]
        plane = row["axis_0"], row["axis_1"]
        where = np.argwhere(labels == row["label"])
        assert {tuple(at) for at in where[:, :2]} == {plane}
        assert len(where) == row["area_px"]
        own = {n: row[n] for n in row if n not in ("index", "axis_0", "axis_1")}
        table = alone(image[plane], name="cells").table
        assert own | {"label": 0} in [one | {"label": 0} for one in table]
    assert len(rows) == labels.max()


def test_an_image_of_one_plane_has_the_table_of_seg(model):
    image = draw(PLANES[1])
    (labels, rows, _), n_steps = run(image, model, name="cells")
    found = seg.load(model, engine="jax")(image, name="cells")
    assert n_steps == 1
    np.testing.assert_array_equal(labels, found.labels)
    assert rows == [{"index": row["label"], **row} for row in found.table]


def test_a_plane_that_cannot_be_used_is_named_and_the_others_stay(model):
    image = stack().astype(np.float32)
    image[0, 1, 3, 4] = np.nan
    (labels, rows, failed), n_steps = run(image, model)
    assert n_steps == 4
    assert failed.keys() == {(0, 1)}
    assert "NaN" in failed[0, 1]
    assert not labels[0, 1].any()
    assert {(row["axis_0"], row["axis_1"]) for row in rows} == {(0, 0), (1, 0)}
    image[:] = np.nan
    with pytest.raises(config.UserError, match="NaN"):
        run(image, model)


def test_alpha_is_no_colour(model):
    rgb = np.repeat(draw(PLANES[1])[..., None], 3, -1)
    alpha = np.random.default_rng(0).integers(0, 255, (40, 50, 1), np.uint8)
    rgba = np.concatenate([rgb, alpha], -1)
    (labels, rows, _), _ = run(np.stack([rgba, rgba]), model, rgb=True)
    np.testing.assert_array_equal(labels > 0, np.stack([rgb[..., 0]] * 2) > 0)
    assert len(rows) == 6


def test_the_size_of_a_pixel_and_the_threshold_count(model):
    image = draw(PLANES[1], dark=100)  # .3 of the probability, by its weights
    (_, rows, _), _ = run(image, model, pixel_size=(0.5, 0.25))
    assert len(rows) == 3
    for row in rows:
        assert row["area_um2"] == row["area_px"] * 0.125
    (labels, _, _), _ = run(image, model, threshold=0.1)
    np.testing.assert_array_equal(labels > 0, image > 0)


@pytest.fixture
def viewer(monkeypatch, tmp_path):
    """A viewer; where there is no OpenGL, all of it but the window."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "napari.yaml"))
    napari = pytest.importorskip("napari")
    from napari.qt import get_qapp
    from qtpy import QtGui

    app = get_qapp()
    if QtGui.QOpenGLContext().create():
        viewer = napari.Viewer(show=False)
        yield viewer
        viewer.close()
    else:
        yield napari.components.ViewerModel()
    app.processEvents()


@pytest.mark.filterwarnings("default")
def test_run_shows_a_layer_and_run_again_changes_it(viewer, model):
    from napari.qt import get_qapp
    from napari.utils.notifications import notification_manager

    image = draw(PLANES[1], dark=100)
    place = {"scale": (2, 0.5, 0.25), "translate": (0, 3, 4)}
    units = ("second", "um", "um")
    given = viewer.add_image(np.stack([image] * 2), **place, units=units)
    given.name = "cells"
    form = plugin.widget()
    assert form.threshold.native.text() == "the model's"
    assert form.diameter.native.text() == "estimated"

    def press(**settings):
        form(viewer=viewer, image=given, **settings)
        assert not form.enabled
        end = time.monotonic() + 60
        while not form.enabled:
            get_qapp().processEvents()
            assert time.monotonic() < end
        return [layer for layer in viewer.layers if layer is not given]

    (layer,) = press(model=model)
    assert layer.name == "cells objects"
    np.testing.assert_array_equal(layer.data > 0, given.data == 255)
    for name in ("scale", "translate", "units"):
        assert list(getattr(layer, name)) == list(getattr(given, name))
    assert list(layer.features["index"]) == [1, 2, 3, 4, 5, 6]
    areas = np.bincount(layer.data.ravel())[1:] * 0.125
    assert list(layer.features["area_um2"]) == list(areas)
    at = np.argwhere(layer.data == 3)[0]
    shown = layer.get_status(at, world=False)["value"]
    assert shown.startswith("3;") and "area_um2" in shown

    layer.opacity, layer.name = 0.3, "mine"
    assert press(model=model, threshold=0.1) == [layer]
    np.testing.assert_array_equal(layer.data > 0, given.data > 0)
    assert len(layer.features) == layer.data.max() == 2
    assert (layer.opacity, layer.name) == (0.3, "mine")

    layer.data[0, :4, :4] = 9  # as the brush does
    layer.metadata = {**layer.metadata, "other": 1}
    again = press(model=model, threshold=0.1)
    assert len(again) == 2 and again[0] is layer
    assert (layer.data[0, :4, :4] == 9).all()
    viewer.layers.remove(again[1])

    records = notification_manager.records
    del records[:]
    before = layer.data.copy()
    assert press(model="nuclie") == [layer]
    (record,) = records
    assert record.severity == "error"
    assert "did you mean nuclei?" in record.message
    assert "\n" not in record.message
    np.testing.assert_array_equal(layer.data, before)
