"""What holds for every network: the contract of `seg.models`.

One program a network and dtype: training and prediction, both batches, all
gradients. Narrow, where the network lets itself be narrowed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seg import config, models
from tests.models import keras_twin as twin

NAMES = sorted(models.MODELS)
# Encoders that keep their widths: large programs, which take long to compile.
LARGE = {"deeplab_v3plus", "mobilenet_unet", "xception_unet"}
LONG = LARGE | {"convnext_unet"}
ALL = [
    pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
    for name in NAMES
]
DEEP = {"residual_unet", "unet_plusplus"}  # heads on inner levels
FIXED = LARGE | {"fcn8"}  # in their depth
FLAT = {"residual_unet", "unet", "unet_small"}  # depth 1 has all they have


def empty(name, **more):
    """The network before its weights are drawn."""
    tiny = {"in_channels": 2, "n_classes": 3, "width": 4}
    if name not in FIXED:
        tiny["depth"] = 1 if name in FLAT else 2
    return nnx.merge(*split(name, **tiny | more), copy=True)


@functools.cache
def split(name, **knobs):
    return nnx.split(twin.empty(name, **knobs))


# ------------------------------------------------------- shapes, by no work
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_of_the_images_size(name, dtype):
    model = empty(name, dtype=dtype)
    for leaf in jax.tree.leaves(nnx.state(model)):
        assert leaf.dtype == jnp.float32
    for (rows, columns), run in (
        ((2, 2), lambda m, x: m(x, rngs=nnx.Rngs(dropout=1))),
        ((3, 5), lambda m, x: models.predicting(m)(x)),
    ):
        h, w = rows * model.stride, columns * model.stride
        x = jax.ShapeDtypeStruct((2, h, w, 2), jnp.float32)
        found = nnx.eval_shape(run, model, x)
        assert set(found) == {"classes"}
        assert found["classes"].shape == (2, h, w, 3)
        assert found["classes"].dtype == jnp.float32


@pytest.mark.parametrize("name", ALL)
def test_one_class_and_any_channels_are_one_knob_each(name):
    model = empty(name, in_channels=5, n_classes=1)
    side = 2 * model.stride
    x = jax.ShapeDtypeStruct((1, side, side, 5), jnp.float32)
    found = nnx.eval_shape(lambda m, x: models.predicting(m)(x), model, x)
    assert found["classes"].shape == (1, side, side, 1)


@pytest.mark.parametrize("name", NAMES)
def test_deep_supervision_is_given_in_training_or_refused(name):
    if name not in DEEP:
        with pytest.raises(config.ConfigError, match="deep_supervision"):
            empty(name, deep_supervision=True)
        return
    model = empty(name, deep_supervision=True, depth=3)
    side = 2 * model.stride
    x = jax.ShapeDtypeStruct((2, side, side, 2), jnp.float32)
    found = nnx.eval_shape(lambda m, x: m(x), model, x)
    assert found["aux"]
    for logits in found["aux"]:
        scale = side // logits.shape[1]
        assert scale & (scale - 1) == 0  # a power of two
        assert logits.shape == (2, side // scale, side // scale, 3)
        assert logits.dtype == jnp.float32
    found = nnx.eval_shape(lambda m, x: models.predicting(m)(x), model, x)
    assert set(found) == {"classes"}


@pytest.mark.parametrize("name", ALL)
def test_what_keeps_objects_apart_is_the_last_layers_last_channel(name):
    model, wider = empty(name, objects="distance"), empty(name, n_classes=4)
    shapes = [
        {path: x.shape for path, x in nnx.to_flat_state(nnx.state(m))}
        for m in (model, wider)
    ]
    if name != "unet":  # whose tail is wider, then
        assert shapes[0] == shapes[1]
    assert shapes[0].keys() == shapes[1].keys()
    side = 2 * model.stride
    x = jax.ShapeDtypeStruct((2, side, side, 2), jnp.float32)
    for run in (
        lambda m, x: m(x, rngs=nnx.Rngs(dropout=1)),
        lambda m, x: models.predicting(m)(x),
    ):
        found = nnx.eval_shape(run, model, x)
        assert set(found) == {"classes", "objects"}
        assert found["classes"].shape == (2, side, side, 3)
        assert found["objects"].shape == (2, side, side, 1)
        assert found["objects"].dtype == jnp.float32
    with pytest.raises(config.ConfigError, match="deep_supervision"):
        empty(name, objects="distance", deep_supervision=True)


# ------------------------------------------------------------- what it does
@pytest.mark.parametrize("name", ALL)
def test_every_weight_learns_and_finitely(name):
    """Of a loss that weighs every logit differently."""
    graph, state = nnx.split(twin.drawn(empty(name)))
    params, rest = nnx.split_state(state, nnx.Param, ...)
    side = 2 * nnx.merge(graph, state).stride
    x = twin.image(2, side, side, 2)

    @jax.jit
    @jax.grad
    def learn(params, x):
        model = nnx.merge(graph, params, rest, copy=True)
        y = model(x, rngs=nnx.Rngs(dropout=1))["classes"]
        return (y * jnp.sin(jnp.arange(y.size)).reshape(y.shape)).sum()

    dead = []
    for path, value in jax.tree.leaves_with_path(learn(params, x)):
        assert np.isfinite(value).all(), jax.tree_util.keystr(path)
        if not np.abs(value).max():
            dead.append(jax.tree_util.keystr(path))
    assert not dead


@pytest.mark.parametrize("name", ALL)
def test_prediction_of_an_image_is_its_own(name):
    """Not its batch's, nor another's for the parameters' way through split
    and merge; bfloat16 gives nearly the same.
    """
    model = twin.drawn(empty(name))
    half = empty(name, dtype="bfloat16")
    nnx.update(half, nnx.state(model))
    x = twin.image(2, 2 * model.stride, 3 * model.stride, 2)
    other = twin.image(2, *x.shape[1:], seed=1)
    found, rough = (twin.forward(m, x)["classes"] for m in (model, half))
    mixed = twin.forward(model, np.stack([other[0], x[0]]))["classes"]
    scale = np.abs(found).max()
    np.testing.assert_allclose(mixed[1], found[0], atol=1e-5 * scale)
    assert np.abs(mixed[0] - found[0]).max() > 1e-3 * scale
    assert found.std() > 0
    assert rough.dtype == jnp.float32
    same = (rough.argmax(-1) == found.argmax(-1)).mean()
    assert same > 0.85, f"{same:.0%} of the pixels"
    assert np.abs(rough - found).mean() < 0.02 * scale
