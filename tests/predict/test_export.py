"""Claims about exports: equal to the model, for platforms that are not here."""

import jax
import numpy as np
import pytest

from seg import config, models, normalize
from seg.predict import bundle, export
from seg.predict.engine import graphs, xla


def images(*shape):
    draw = np.random.default_rng(0)
    image = draw.integers(0, 255, shape).astype(np.float32)
    return image, np.stack([normalize.measure(one) for one in image])


@pytest.mark.parametrize(
    "knobs",
    [
        {
            "data__normalize": "standard",
            "model__norm": "group",
            "model__depth": 1,
        },
        {
            "model__name": "unet_small",
            "model__depth": 1,
            "model__in_channels": 3,
            "model__n_classes": 3,
            "classes": ("background", "a", "b"),
        },
    ],
)
def test_one_program_equals_the_model_whatever_the_size(make_bundle, knobs):
    model = make_bundle(**knobs)
    content = export.stablehlo(model)
    program = jax.export.deserialize(bytearray(content))
    assert program.platforms == ("cpu", "cuda", "tpu")
    kind = model.config.data.normalize
    run = xla.Xla(bundle.model(model), kind)._call
    channels = model.config.model.in_channels
    image, stats = images(3, 8, 24, channels)
    wanted = run(image, stats)
    found = np.asarray(program.call(image, stats))
    # XLA folds constants that are arguments to the engine's program.
    np.testing.assert_allclose(found, wanted, atol=1e-5, strict=True)
    assert found.std() > 0.01


# Knobs that a network has not, or whose default is too deep for a test.
KNOBS = {"convnext_unet": {"model__depth": 1}, "fcn8": {"model__depth": None}}
FIXED = {"model__depth": None, "model__norm": None}
# What logits are multiplied by: of random weights, all would be far from 0.
HEAVY = {"deeplab_v3plus": 0.2, "mobilenet_unet": 0.01, "xception_unet": 3e-4}
LIGHT = dict.fromkeys(models.MODELS, 0.1)
EVERY = [
    pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name
    for name in models.MODELS
]


@pytest.mark.parametrize("name", EVERY)
def test_every_architecture_is_the_same_in_both_forms(make_bundle, name):
    knobs = FIXED if name in HEAVY else KNOBS.get(name, {})
    made = make_bundle(model__name=name, **knobs)
    for key, array in made.weights.items():
        if key.startswith(("head/", "heads/")):
            array *= (LIGHT | HEAVY)[name]
    content, stride = export.onnx(made), bundle.model(made).stride
    program = jax.export.deserialize(bytearray(export.stablehlo(made)))
    assert program.platforms == ("cpu", "cuda", "tpu")
    # not of a tile's size, nor of that which the exports were checked at
    image, stats = images(3, 3 * stride, stride, 1)
    wanted = np.asarray(program.call(image, stats))
    assert wanted.std() > 0.01 and 0.05 < np.median(wanted) < 0.95
    for tool in (graphs.OnnxRuntime, graphs.OpenVino):
        found = tool(content, stride, "f32").call(image, stats)
        np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_it_lowers_for_devices_that_are_not_here(make_bundle, platform, dtype):
    model = make_bundle(model__dtype=dtype)
    content = export.stablehlo(model, platforms=(platform,))
    assert jax.export.deserialize(bytearray(content)).platforms == (platform,)


def test_a_program_that_differs_is_not_exported(make_bundle, monkeypatch):
    content = export.stablehlo(make_bundle(seed=1, model__depth=1))
    other = jax.export.deserialize(bytearray(content))
    monkeypatch.setattr(jax.export, "deserialize", lambda content: other)
    with pytest.raises(config.UserError, match="differs from the model by"):
        export.stablehlo(make_bundle(model__depth=1))
