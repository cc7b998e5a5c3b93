"""The U-Nets are those of their sources, weight for weight, and their knobs."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config, models
from seg.models import blocks, unet
from tests.models import keras_twin as twin

L = keras.layers


def drawn(name="unet", **knobs):
    return twin.drawn(twin.empty(name, **knobs))


# ------------------------------------------------ the same network in Keras
def double(x, n, dropout=0.0):
    for rate in (dropout, None):
        x = L.Conv2D(n, 3, padding="same", activation="relu")(x)
        if rate:
            x = L.Dropout(rate)(x)
    return x


def classic_up(x, n):
    return L.Conv2D(n, 2, padding="same", activation="relu")(
        L.UpSampling2D(2)(x)
    )


def small_up(x, n):
    return L.Conv2DTranspose(n, 2, strides=2, padding="same")(x)


CLASSIC = [0.0] * 9
SMALL = [0.1, 0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1]


@twin.blank()
def in_keras(width, n_channels, rates, up, tail, n_classes=1):
    """Encoder of doubling widths, decoder with concatenated skips, head."""
    inputs = x = keras.Input((None, None, n_channels))
    depth, skips = len(rates) // 2, []
    for level in range(depth):
        x = double(x, width << level, rates[level])
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = double(x, width << depth, rates[depth])
    for level in reversed(range(depth)):
        x = L.Concatenate()([skips[level], up(x, width << level)])
        x = double(x, width << level, rates[2 * depth - level])
    if tail:
        x = L.Conv2D(2, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, L.Conv2D(n_classes, 1)(x))


def in_order(model):
    """Our layers with weights, in the order of the Keras model's."""
    layers = []
    for block in model.down:
        layers += [block.conv1, block.conv2]
    for up, merge in zip(model.up, model.merge, strict=True):
        layers += [getattr(up, "conv", up), merge.conv1, merge.conv2]
    return layers + ([model.tail] if model.tail else []) + [model.head]


@pytest.mark.parametrize(
    ("name", "n_channels", "rates", "up", "tail", "width"),
    [
        ("unet", 1, CLASSIC, classic_up, True, 8),
        ("unet_small", 3, SMALL, small_up, False, 8),
        pytest.param(
            "unet", 1, CLASSIC, classic_up, True, 64, marks=pytest.mark.slow
        ),
        pytest.param(
            "unet_small", 3, SMALL, small_up, False, 16, marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.parametrize("size", [(32, 64), (48, 80)])
def test_outputs_are_those_of_keras(
    name, n_channels, rates, up, tail, width, size
):
    theirs = in_keras(width, n_channels, rates, up, tail)
    twin.randomise(theirs, gain=2)
    ours = twin.empty(name, in_channels=n_channels, width=width)
    twin.copy_in_order(theirs.layers, in_order(ours))
    x = twin.image(2, *size, n_channels)
    found = twin.forward(ours, x)["classes"]
    assert found.shape == (2, *size, 1)
    wanted = twin.expected(theirs, x)
    assert wanted.std() > 0.05  # else there is nothing to compare
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "n_channels", "n"),
    [("unet", 1, 31_031_685), ("unet_small", 3, 1_941_105)],
)
def test_the_sources_parameters_are_counted(name, n_channels, n):
    assert twin.n_values(name, in_channels=n_channels) == n


def test_keras_counts_the_same_parameters_at_any_width_and_depth():
    for depth, width, k in ((1, 4, 1), (2, 6, 3), (3, 4, 2)):
        rates = [0.0] * (2 * depth + 1)
        small = in_keras(width, 2, rates, small_up, False, k)
        knobs = {"in_channels": 2, "n_classes": k}
        knobs |= {"width": width, "depth": depth}
        assert twin.n_values("unet_small", **knobs) == small.count_params()


def test_the_tail_widens_with_the_classes():
    for n_classes, n_tail in ((1, 2), (2, 2), (4, 4)):
        model = twin.empty("unet", width=4, depth=1, n_classes=n_classes)
        assert model.tail.kernel.shape == (3, 3, 4, n_tail)


# ----------------------------------------------------------------- dropout
def rates(name, **knobs):
    model = twin.empty(name, width=4, **knobs)
    return [block.dropout.rate for block in (*model.down, *model.merge)]


def test_dropout_rates_are_the_sources():
    assert rates("unet") == CLASSIC
    assert rates("unet_small") == pytest.approx(SMALL)
    assert rates("unet_small", depth=2, dropout=0.5) == [0.5] * 5
    assert rates("unet_small", dropout=0.0) == CLASSIC
    assert rates("unet", depth=1, dropout=0.25) == [0.25] * 3


def test_dropout_lies_between_the_two_convolutions():
    block = twin.drawn(
        twin.abstract(
            unet.DoubleConv,
            3,
            4,
            norm="none",
            dropout=0.5,
            dtype=jnp.float32,
            init=blocks.he_normal,
        )
    )
    through = np.zeros((3, 3, 4, 4), np.float32)
    through[1, 1] = np.eye(4)
    block.conv2.kernel[...], block.conv2.bias[...] = through, np.zeros(4, "f")
    x = twin.image(2, 16, 16, 3)
    kept = jax.nn.relu(twin.run(block.conv1, x))
    dropped = twin.run(block, x, nnx.Rngs(dropout=1))
    here = np.asarray(dropped) > 0
    np.testing.assert_allclose(dropped[here], 2 * kept[here], rtol=1e-6)
    assert 0.4 < here.sum() / (np.asarray(kept) > 0).sum() < 0.6
    np.testing.assert_allclose(twin.forward(block, x, None), kept, rtol=1e-6)


def test_a_forward_pass_is_a_function_of_its_inputs():
    model = drawn("unet_small", in_channels=1, width=4, depth=1)
    x = twin.image(1, 8, 8, 1)

    def run(seed):
        return twin.run(model, x, nnx.Rngs(dropout=seed))["classes"]

    np.testing.assert_array_equal(run(1), run(1))
    assert np.abs(run(1) - run(2)).max() > 0
    assert not jax.tree.leaves(nnx.state(model, nnx.RngState))


# ------------------------------------------------------------------- knobs
@pytest.mark.parametrize("name", ["unet", "unet_small"])
@pytest.mark.parametrize("stem", [None, 1, 2])
@pytest.mark.parametrize("depth", [0, 3])
def test_any_multiple_of_the_stride_goes_through(name, stem, depth):
    knobs = {"in_channels": 2, "n_classes": 3, "width": 4}
    model = twin.empty(name, stem=stem, depth=depth, **knobs)
    assert model.stride == (stem or 1) * 2**depth
    for rows, columns in ((1, 1), (3, 5)):
        h, w = rows * model.stride, columns * model.stride
        x = jax.ShapeDtypeStruct((2, h, w, 2), jnp.float32)
        found = nnx.eval_shape(lambda m, x: models.predicting(m)(x), model, x)
        assert found["classes"].shape == (2, h, w, 3)
        assert found["classes"].dtype == jnp.float32


def test_with_a_stem_every_pixel_has_logits_of_its_own():
    model = drawn(width=4, depth=1, stem=2)
    x = twin.image(1, 8, 8, 1)
    logits = twin.forward(model, x)["classes"]
    block = np.asarray(logits[0, 2:4, 2:4, 0])
    assert len(np.unique(block)) == 4
    # and the head's channels are the phases, as `space_to_depth` has them
    model.head.kernel[...] *= 0
    model.head.bias[...] = jnp.arange(4.0)
    logits = twin.forward(model, x)["classes"]
    np.testing.assert_array_equal(logits[0, :2, :2, 0], [[0, 1], [2, 3]])


def test_norms_are_where_and_what_the_config_says():
    kinds = {
        "batch": blocks.BatchNorm,
        "group": nnx.GroupNorm,
        "none": blocks.Identity,
        None: blocks.Identity,
    }
    for norm, kind in kinds.items():
        model = twin.empty("unet", width=4, depth=1, norm=norm)
        for block in (*model.down, *model.merge):
            assert isinstance(block.norm1, kind)
            assert isinstance(block.norm2, kind)
            # a batch norm makes the bias before it inert
            assert (block.conv1.bias is None) == (norm == "batch")
        stats = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
        assert len(stats) == (12 if norm == "batch" else 0)


def test_a_batch_norm_learns_in_training_alone():
    model = drawn(width=4, depth=0, norm="batch")
    x = twin.image(2, 4, 4, 1)
    before = jax.device_get(nnx.state(model, nnx.BatchStat))
    models.predicting(model)(x)
    same = nnx.state(model, nnx.BatchStat)
    jax.tree.map(np.testing.assert_array_equal, same, before)
    first = np.asarray(model.down[0].norm1.mean[...])
    model(x)
    assert np.abs(model.down[0].norm1.mean[...] - first).min() > 0


def convolutions(model, x):
    """The types of all convolutions and dots of a pass, in order."""
    graph, state = nnx.split(models.predicting(model))
    jaxpr = jax.make_jaxpr(lambda s, x: nnx.merge(graph, s)(x)["classes"])(
        state, x
    )
    heavy = ("conv_general_dilated", "dot_general")
    return [
        str(equation.outvars[0].aval.dtype)
        for equation in equations(jaxpr.jaxpr)
        if equation.primitive.name in heavy
    ]


def equations(jaxpr):
    """The equations of a program, those of its inner programs in place."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from equations(value.jaxpr)


@pytest.mark.parametrize(
    ("name", "norm"),
    [("unet", "batch"), ("unet_small", "group"), ("unet_small", "none")],
)
def test_bfloat16_computes_all_but_the_head_in_it(name, norm):
    knobs = {"in_channels": 1, "width": 4, "depth": 1, "norm": norm}
    knobs["dropout"] = 0.0
    half, full = drawn(name, dtype="bfloat16", **knobs), drawn(name, **knobs)
    for leaf in jax.tree.leaves(nnx.state(half)):
        assert leaf.dtype == jnp.float32
    x = twin.image(1, 16, 16, 1)
    *body, head = convolutions(half, x)
    assert set(body) == {"bfloat16"}
    assert head == "float32"
    assert set(convolutions(full, x)) == {"float32"}
    a, b = (twin.forward(m, x)["classes"] for m in (half, full))
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max() + 1e-3)
    assert np.abs(a - b).max() > 0


def test_a_misspelt_model_is_refused_with_the_right_name():
    with pytest.raises(config.ConfigError, match="did you mean unet_small"):
        twin.empty("unet_smal")
    with pytest.raises(config.ConfigError, match=r"known: .*unet_small"):
        twin.empty("transformer")
