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

NAMES = sorted(models.MODELS)
# Encoders that keep their widths: large programs, which take long to compile.
LARGE = {"deeplab_v3plus", "mobilenet_unet", "xception_unet"}
LONG = LARGE | {"convnext_unet"}
ALL = [
    pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
    for name in NAMES
]
DEEP = {"residual_unet", "unet_plusplus"}  # heads on inner levels
FIXED = LARGE | {"fcn8", "segnet", "segnet_indices"}  # in their depth
# What runs once need not run fast; it compiles in half the time.
FAST = {"xla_backend_optimization_level": 0}


def knobs(name, **more):
    tiny = {"name": name, "in_channels": 2, "n_classes": 3, "width": 4}
    if name not in FIXED:
        tiny["depth"] = 1 if name in ("unet", "unet_small") else 2
    return config.Model(**tiny | more)


def predicting(model):
    return nnx.view(
        model,
        use_running_average=True,
        deterministic=True,
        raise_if_not_found=False,
    )


def shapes(name, **more):
    """The network before its weights are drawn."""
    return nnx.eval_shape(
        lambda: models.build(knobs(name, **more), nnx.Rngs(0))
    )


@functools.cache
def drawn(name):
    """Structure, and weights of no initialiser: those compile for long."""
    graph, state = nnx.split(shapes(name))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-2].key in ("scale", "var"):
            return rng.uniform(0.7, 1.2, leaf.shape)
        values = rng.normal(size=leaf.shape)
        if leaf.ndim == 1:
            return 0.2 * values
        return values * np.sqrt(2 * leaf.shape[-1] / leaf.size)

    return graph, jax.tree.map_with_path(
        lambda path, leaf: jnp.asarray(draw(path, leaf), leaf.dtype), state
    )


def predict(graph, state, x):
    return predicting(nnx.merge(graph, state))(x)["classes"]


def image(*shape, seed=0):
    x = np.random.default_rng(seed).uniform(size=shape)
    return jnp.asarray(x, jnp.float32)


# ------------------------------------------------------- shapes, by no work
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_of_the_images_size(name, dtype):
    model = shapes(name, dtype=dtype)
    for leaf in jax.tree.leaves(nnx.state(model)):
        assert leaf.dtype == jnp.float32
    for (rows, columns), run in (
        ((2, 2), lambda m, x: m(x, rngs=nnx.Rngs(dropout=1))),
        ((3, 5), lambda m, x: predicting(m)(x)),
    ):
        h, w = rows * model.stride, columns * model.stride
        x = jax.ShapeDtypeStruct((2, h, w, 2), jnp.float32)
        found = nnx.eval_shape(run, model, x)
        assert set(found) == {"classes"}
        assert found["classes"].shape == (2, h, w, 3)
        assert found["classes"].dtype == jnp.float32


@pytest.mark.parametrize("name", ALL)
def test_one_class_and_any_channels_are_one_knob_each(name):
    model = shapes(name, in_channels=5, n_classes=1)
    side = 2 * model.stride
    x = jax.ShapeDtypeStruct((1, side, side, 5), jnp.float32)
    found = nnx.eval_shape(lambda m, x: predicting(m)(x), model, x)
    assert found["classes"].shape == (1, side, side, 1)


@pytest.mark.parametrize("name", NAMES)
def test_deep_supervision_is_given_in_training_or_refused(name):
    if name not in DEEP:
        with pytest.raises(config.ConfigError, match="deep_supervision"):
            shapes(name, deep_supervision=True)
        return
    model = shapes(name, deep_supervision=True, depth=3)
    side = 2 * model.stride
    x = jax.ShapeDtypeStruct((2, side, side, 2), jnp.float32)
    found = nnx.eval_shape(lambda m, x: dict(m(x)), model, x)
    assert found["aux"]
    for logits in found["aux"]:
        scale = side // logits.shape[1]
        assert scale & (scale - 1) == 0  # a power of two
        assert logits.shape == (2, side // scale, side // scale, 3)
        assert logits.dtype == jnp.float32
    found = nnx.eval_shape(lambda m, x: dict(predicting(m)(x)), model, x)
    assert set(found) == {"classes"}


# ------------------------------------------------------------- what it does
@pytest.mark.parametrize("name", ALL)
def test_every_weight_learns_and_finitely(name):
    """Of a loss that weighs every logit differently."""
    graph, state = drawn(name)
    params, rest = nnx.split_state(state, nnx.Param, ...)
    side = 2 * nnx.merge(graph, state).stride
    x = image(2, side, side, 2)

    def loss(params, x):
        model = nnx.merge(graph, params, rest, copy=True)
        y = model(x, rngs=nnx.Rngs(dropout=1))["classes"]
        return (y * jnp.sin(jnp.arange(y.size)).reshape(y.shape)).sum()

    grads = jax.jit(jax.grad(loss))(params, x)
    dead = []
    for path, value in jax.tree.leaves_with_path(grads):
        assert np.isfinite(value).all(), jax.tree_util.keystr(path)
        if not np.abs(value).max():
            dead.append(jax.tree_util.keystr(path))
    assert not dead


@pytest.mark.parametrize("name", ALL)
def test_prediction_of_an_image_is_its_own(name):
    """Not its batch's, nor another's for the parameters' way through split
    and merge; bfloat16 gives nearly the same.
    """
    graph, state = drawn(name)
    half = nnx.graphdef(shapes(name, dtype="bfloat16"))
    stride = nnx.merge(graph, state).stride
    x = image(2, 2 * stride, 3 * stride, 2)
    other = image(2, *x.shape[1:], seed=1)

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(state, x):
        return predict(graph, state, x), predict(half, state, x)

    found, rough = run(state, x)
    mixed, _ = run(state, jnp.stack([other[0], x[0]]))
    scale = np.abs(found).max()
    np.testing.assert_allclose(mixed[1], found[0], atol=1e-5 * scale)
    assert np.abs(mixed[0] - found[0]).max() > 1e-3 * scale
    assert found.std() > 0
    assert rough.dtype == jnp.float32
    same = (rough.argmax(-1) == found.argmax(-1)).mean()
    assert same > 0.85, f"{same:.0%} of the pixels"
    assert np.abs(rough - found).mean() < 0.02 * scale
