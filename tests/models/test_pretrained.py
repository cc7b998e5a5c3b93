"""Weights that Keras saved give the features that Keras computes."""

import functools
import hashlib
import shutil
import sys

import h5py
import jax
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from seg import config
from seg.models import pretrained
from tests.models import keras_twin as twin

# Keras 3 on numpy 2, where it writes the old format
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

FEATURES = {
    "xception_unet": (
        keras.applications.Xception,
        [f"block{i}_sepconv2_bn" for i in (2, 3, 4, 13)],
    ),
    "mobilenet_unet": (
        keras.applications.MobileNetV2,
        [f"block_{i}_expand_relu" for i in (1, 3, 6, 13)]
        + ["block_16_project"],
    ),
}


@functools.cache
@twin.blank()
def encoder(name):
    """In Keras, with weights that are all different."""
    make, _ = FEATURES[name]
    made = make(weights=None, include_top=False, input_shape=(None, None, 3))
    twin.randomise(made)
    return made


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * (name[0] == "x"))
        for name in sorted(FEATURES)
    ],
)
def saved(request, tmp_path_factory):
    """The network's name, its files, Keras' features of an image."""
    base = encoder(request.param)
    _, names = FEATURES[request.param]
    folder = tmp_path_factory.mktemp("weights")
    files = folder / "old.h5", folder / "new.weights.h5"
    with h5py.File(files[0], "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, base)
    base.save_weights(files[1])
    cut = keras.Model(base.input, [base.get_layer(n).output for n in names])
    x = 2 * twin.image(1, 64, 32, 3) - 1
    grey = np.repeat(x[..., :1], 3, -1)
    features = twin.expected(cut, np.concatenate([x, grey]))
    return request.param, files, x, features


def knobs(**more):
    return {"in_channels": 3, "n_classes": 2, "width": 2} | more


@pytest.mark.parametrize("kind", [0, 1])
def test_features_are_those_of_keras(saved, kind):
    name, files, x, wanted = saved
    model = twin.empty(name, **knobs())
    digest = pretrained.load(model, files[kind])
    assert digest == hashlib.sha256(files[kind].read_bytes()).hexdigest()
    found = twin.forward(model.encoder, x)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b[:1].shape
        assert b.std() > 0.05
        np.testing.assert_allclose(a, b[:1], atol=1e-4, rtol=1e-4)


def test_one_channel_is_three_equal_ones(saved):
    name, files, x, wanted = saved
    model = twin.empty(name, **knobs(in_channels=1))
    pretrained.load(model, files[1])
    for a, b in zip(
        twin.forward(model.encoder, x[..., :1]), wanted, strict=True
    ):
        np.testing.assert_allclose(a, b[1:], atol=1e-4, rtol=1e-4)


def test_a_whole_saved_model_and_a_cut_one_are_read_as_well(tmp_path):
    base = encoder("mobilenet_unet")
    end = base.get_layer("block_16_project").output
    cut = keras.Model(base.input, end)
    cut.save_weights(tmp_path / "cut.weights.h5")
    legacy_h5_format.save_model_to_hdf5(cut, tmp_path / "whole.h5")
    kernels = []
    for name in ("cut.weights.h5", "whole.h5"):
        model = twin.empty("mobilenet_unet", **knobs())
        pretrained.load(model, tmp_path / name)
        kernels.append(model.encoder.blocks[16].project.kernel[...])
    (theirs,) = base.get_layer("block_16_project").weights
    for kernel in kernels:
        np.testing.assert_array_equal(kernel, theirs.value)


def test_with_an_encoder_the_network_scales_its_images_itself():
    """And builds and predicts without the file."""
    gone = knobs(encoder="/gone/weights.h5")
    plain = twin.drawn(twin.empty("mobilenet_unet", **knobs()))
    scaling = twin.drawn(twin.empty("mobilenet_unet", **gone))
    x = twin.image(1, 32, 32, 3)
    found = twin.forward(scaling, x)["classes"]
    wanted = twin.forward(plain, 2 * x - 1)["classes"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - twin.forward(plain, x)["classes"]).max() > 1e-3
    assert twin.empty("xception_unet", **gone).centred


# -------------------------------------------------------------------- faults
@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("fault") / "mobilenet.weights.h5"
    encoder("mobilenet_unet").save_weights(path)
    return path


@pytest.fixture
def mobilenet():
    return twin.empty("mobilenet_unet", **knobs())


def test_layers_that_do_not_fit_are_named(weights, mobilenet, tmp_path):
    path = tmp_path / "changed.weights.h5"
    shutil.copyfile(weights, path)
    with h5py.File(path, "r+") as file:
        groups = [group["vars"] for group in file["layers"].values()]
        layers = {g.attrs["name"]: g for g in groups if len(g)}
        layers["block_2_expand"].attrs["name"] = "stranger"
        values = layers["block_5_project"]
        del values["0"]
        values["0"] = np.zeros((1, 1, 7, 32), np.float32)
    before = mobilenet.encoder.conv.kernel
    with pytest.raises(config.UserError) as error:
        pretrained.load(mobilenet, path)
    message = str(error.value)
    assert "lacks block_2_expand;" in message
    assert "besides stranger;" in message
    assert "block_5_project ([(1, 1, 7, 32)] for [(1, 1, 192, 32)])" in message
    assert "\n" not in message
    # nothing was put in place
    assert isinstance(before.get_value(), jax.ShapeDtypeStruct)


def test_an_old_file_with_other_names_is_read_by_its_order(mobilenet, tmp_path):
    """As Keras reads it, whose own names changed over the years."""
    base = encoder("mobilenet_unet")
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, base)
        names = [f"mobl{i}" for i in range(len(file.attrs["layer_names"]))]
        for old, new in zip(file.attrs["layer_names"], names, strict=True):
            file.move(old, new)
        file.attrs["layer_names"] = names
    pretrained.load(mobilenet, path)
    kernel = mobilenet.encoder.blocks[7].depthwise.kernel[...]
    wanted = base.get_layer("block_7_depthwise").get_weights()[0]
    np.testing.assert_array_equal(kernel, wanted[..., 0])
    with h5py.File(path, "r+") as file:  # an order that fits nothing
        file.attrs["layer_names"] = names[::-1]
    with pytest.raises(config.UserError, match="it lacks Conv1"):
        pretrained.load(twin.empty("mobilenet_unet", **knobs()), path)


def test_the_other_encoder_s_weights_are_refused(weights):
    model = twin.empty("xception_unet", **knobs())
    with pytest.raises(config.UserError, match=r"lacks block1_conv1, .* more"):
        pretrained.load(model, weights)


def test_two_channels_cannot_take_weights_for_three(weights):
    model = twin.empty("mobilenet_unet", **knobs(in_channels=2))
    with pytest.raises(config.UserError, match=r"differ in Conv1 \("):
        pretrained.load(model, weights)


def test_a_missing_file_is_said_with_its_source(mobilenet, tmp_path):
    with pytest.raises(config.UserError, match=r"https://.*no_top.h5") as error:
        pretrained.load(mobilenet, tmp_path / "gone.h5")
    assert "downloads nothing" in str(error.value)


def test_a_file_of_something_else_is_refused(mobilenet, tmp_path):
    (tmp_path / "text.h5").write_text("no weights")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    for name in ("text.h5", "other.h5"):
        with pytest.raises(config.UserError, match=f"{name} holds no weights"):
            pretrained.load(mobilenet, tmp_path / name)


def test_a_network_without_an_encoder_is_refused(weights):
    model = twin.empty("unet_small", width=4, depth=1)
    with pytest.raises(config.ConfigError, match="no encoder that"):
        pretrained.load(model, weights)


def test_without_h5py_its_name_is_said(mobilenet, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(config.UserError, match="h5py is missing"):
        pretrained.load(mobilenet, weights)
