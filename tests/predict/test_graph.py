"""Claims about graphs: equal to JAX at any size, lean, or refused by name."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from jax import export as jax_export

from seg import config, normalize
from seg.config import scaling
from seg.models import (
    blocks,
    convnext_unet,
    fcn8,
    residual_unet,
    strided,
    unet_plusplus,
)
from seg.predict import bundle, graph
from seg.predict.engine import xla


def noise(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def run(model, *arrays):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [each.name for each in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, arrays, strict=True)))
    return found


SIZES = len(normalize.COLUMNS)
SCOPE = jax_export.SymbolicScope()


def free(array):
    """What an array is an example of: B is free, of images H and W too."""
    names = ("b", "8 * h", "8 * w")[: 3 if array.ndim == 4 else 1]
    sizes = map(str, array.shape[len(names) :])
    shape = ", ".join([*names, *sizes])
    shape = jax_export.symbolic_shape(shape, scope=SCOPE)
    return jax.ShapeDtypeStruct(shape, array.dtype)


def converted(function, *arrays):
    names = [f"x{i}" for i in range(len(arrays))]
    return graph.convert(function, [*map(free, arrays)], names, "y")


def program(model):
    network = bundle.model(model)
    structure, state = xla.split(network)
    kind = model.config.data.normalize

    def of(image, stats):
        return xla.apply(structure, kind, state, image, stats)

    return of, network.stride


NETWORKS = [
    {"model__norm": "none", "model__stem": 2, "data__normalize": "standard"},
    {
        "model__name": "unet_small",
        "model__stem": 2,
        "model__in_channels": 3,
        "model__n_classes": 3,
        "classes": ("background", "a", "b"),
    },
    {"model__objects": "distance", "model__depth": 3},
]


@pytest.mark.parametrize("knobs", NETWORKS)
def test_a_network_gives_the_same_at_any_size(make_bundle, knobs):
    model = make_bundle(**knobs)
    of, stride = program(model)
    channels = model.config.model.in_channels
    examples = noise(2, 32, 32, channels), noise(2, channels, SIZES)
    made = converted(of, *examples)
    onnx.checker.check_model(made, full_check=True)
    for b, h, w in ((2, 32, 32), (1, stride, 3 * stride), (3, 40, 24)):
        image = 100 + 40 * noise(b, h, w, channels)
        stats = np.stack([normalize.measure(one) for one in image])
        found = run(made, image, stats)
        np.testing.assert_allclose(found, of(image, stats), atol=1e-5)
        assert found.std() > 0


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_normalisation_by_image_holds_at_any_size(norm):
    layer = (
        nnx.GroupNorm(8, num_groups=4, rngs=nnx.Rngs(0))
        if norm == "group"
        else residual_unet.InstanceNorm(8)
    )
    layer.scale[...] = 1 + noise(8)
    made = converted(layer, noise(2, 32, 32, 8))
    for b, h, w in ((2, 16, 8), (1, 24, 40)):
        image = 3 + noise(b, h, w, 8)
        np.testing.assert_allclose(run(made, image), layer(image), atol=1e-4)


STEPS = [name for name in scaling.STEPS if name != "gamma"]
CHAINS = ["minmax + gamma", "invert + percentile", "equalize + columns"]


@pytest.mark.parametrize("steps", [*STEPS, *CHAINS])
def test_a_graph_scales_as_numpy_does(steps):
    data = config.Data(normalize=steps, mean=(90, 80, 9), std=(30, 20, 1))
    how = normalize.scaling(data)

    def of(image, stats):
        return normalize.apply(image, stats, how)

    made = converted(of, noise(2, 8, 8, 3), noise(2, 3, SIZES))
    image = np.random.default_rng(0).integers(0, 255, (2, 16, 24, 3))
    image[1] //= 3  # dark
    image[1, ..., 2] = 7  # and flat
    image = image.astype(np.uint8)
    stats = np.stack([normalize.measure(one) for one in image])
    wanted = of(image, stats)
    found = run(made, image.astype(np.float32), stats)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    assert wanted.std() > 0.02


def test_it_is_channels_first_inside_and_batchnorm_is_folded(make_bundle):
    of, _ = program(make_bundle(model__name="unet_small"))
    made = converted(of, noise(2, 32, 32, 1), noise(2, 1, SIZES))
    count = collections.Counter(node.op_type for node in made.graph.node)
    # in and out
    assert count["Transpose"] <= 2
    convolved = {n.output[0] for n in made.graph.node if n.op_type == "Conv"}
    for node in made.graph.node:
        if node.op_type in ("Mul", "Add"):
            assert not convolved & set(node.input)
    assert count["MaxPool"] == 2 and count["DepthToSpace"] == 2


POSITIVE = np.abs(noise(2, 8, 16, 4)) + 0.1
FUNCTIONS = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "elu": lambda x: jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0)) - 1),
    "softmax": jax.nn.softmax,
    "square": jnp.square,
    "cube": lambda x: x**3,
    "clip": lambda x: jnp.clip(x, 0.2, 0.7),
    "rsqrt": jax.lax.rsqrt,
    "log": jnp.log,
    "sum": lambda x: x.sum(3),
    "dense": lambda x: x @ noise(4, 3),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0))),
    "cut": lambda x: jax.lax.slice_in_dim(x[:, 1:, 2:-1, 1:3], 0, None, 2, 1),
    "first": lambda x: x[..., 0],
    "crop": lambda x: x[:, 3:-2, 1:-1],
    "parts": lambda x: jnp.concatenate(jnp.split(x, 2, 3)[::-1], 3),
    "masked": lambda x: jnp.concatenate([jnp.where(x > 0.5, x, 0), x], 3),
    "mean": lambda x: x.mean((1, 2)),
    "image pooling": lambda x: jnp.concatenate(
        [x, jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape)], 3
    ),
    "layer norm": lambda x: (
        (x - x.mean(3, keepdims=True))
        * jax.lax.rsqrt(x.var(3, keepdims=True) + 1e-3)
    ),
    "column norm": lambda x: x / jnp.sqrt((x * x).sum(1, keepdims=True)),
    "of columns": lambda x: (x * x).sum(1)[:, None] + x,
    "groups": lambda x: x.reshape(*x.shape[:3], 2, 2).max(4),
    "folded": lambda x: x.reshape(x.shape[0], -1, 4).sum(1),
    "count": lambda x: x * (x.shape[1] * x.shape[2] // 3 - x.shape[0]),
    "turned": lambda x: x.transpose(0, 2, 1, 3)[:, 1:],
    "mean of several": lambda x: unet_plusplus.mean_logits(
        jnp.stack([x, 2 * x])
    ),
    "by platform": lambda x: jax.lax.platform_dependent(
        x,
        cpu=lambda x: jnp.tanh(
            jnp.sort(x.reshape(-1)).reshape(x.shape) * 0 + x
        ),
        default=jnp.tanh,
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("convolved", [False, True])
def test_an_operation_gives_what_jax_gives(name, convolved):
    kernel = np.abs(noise(3, 3, 4, 4))

    def of(x):
        if convolved:  # channels first from here on
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
        return FUNCTIONS[name](x)

    found = run(converted(of, POSITIVE), POSITIVE)
    np.testing.assert_allclose(found, of(POSITIVE), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolutions_of_every_kind(strides, groups, dilation):
    kernel = noise(3, 3, 4 // groups, 8)

    def of(x):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, "SAME", feature_group_count=groups,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    image = noise(2, 12, 8, 4)
    found = run(converted(of, image), image)
    np.testing.assert_allclose(found, of(image), atol=1e-4)


def bilinear(factor):
    def of(x):
        b, h, w, c = x.shape
        size = (b, factor * h, factor * w, c)
        return jax.image.resize(x, size, "bilinear")

    return of


def up_and_down(side):
    def of(x):
        b, h, w, c = x.shape
        x = x.reshape(b, h // side, side, w // side, side, c)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        small = x.reshape(b, h // side, w // side, side**2 * c)
        x = small.reshape(b, h // side, w // side, side, side, c)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        return 2 * x.reshape(b, h, w, c)

    return of


def pooled_mean(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


KERNEL = noise(3, 3, 4, 6)
PATTERNS = {
    "MaxPool": blocks.max_pool,
    "MaxPool of 3": strided.max_pool3,
    "AveragePool": pooled_mean,
    "SpaceToDepth": up_and_down(2),
    "DepthToSpace": up_and_down(4),
    "DepthToSpace of 8": fcn8.Grow(4, 8),
    "Resize": lambda x: x.repeat(2, 1).repeat(2, 2),
    "Resize by 2": bilinear(2),
    "Resize by 4": bilinear(4),
    "ConvTranspose": lambda x: strided.conv_transpose(x, KERNEL),
    "Conv of channels": lambda x: strided.depthwise(x, KERNEL[..., 0]),
    "Conv with holes": lambda x: strided.depthwise(x, KERNEL[..., 0], 1, 3),
    "Conv of 7": lambda x: convnext_unet.depthwise(x, noise(7, 7, 4)),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_what_is_one_operation_in_onnx_becomes_it(name):
    function = PATTERNS[name]
    made = converted(function, POSITIVE)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count(name.split()[0]) == 1
    assert not {"Reshape", "Shape", "Pad"} & {*kinds}
    found = run(made, POSITIVE)
    np.testing.assert_allclose(found, function(POSITIVE), rtol=2e-5, atol=2e-5)


def test_a_part_that_others_see_is_no_pattern():
    def of(x):
        b, h, w, c = x.shape
        split = x.reshape(b, h // 2, 2, w // 2, 2, c)
        return split.max((2, 4)) + split[:, :, 0, :, 0]

    made = converted(of, POSITIVE)
    assert "MaxPool" not in {node.op_type for node in made.graph.node}
    np.testing.assert_allclose(run(made, POSITIVE), of(POSITIVE))


def test_another_resizing_is_not_taken_for_the_bilinear_one():
    def of(x):
        b, h, w, c = x.shape
        return jax.image.resize(x, (b, 2 * h, 2 * w, c), "cubic")

    with pytest.raises(graph.UnsupportedError):
        converted(of, POSITIVE)


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: x @ noise(4, 4),
        lambda x: strided.conv_transpose(x, noise(3, 3, 4, 4)),
        lambda x: strided.depthwise(x, noise(3, 3, 4), 2),
        lambda x: blocks.add_bias(x @ noise(4, 4), noise(4)),
    ],
)
def test_normalisation_goes_into_the_weights_before_it(layer):
    norm = blocks.BatchNorm(4, nnx.Rngs(0))
    norm.use_running_average = True
    norm.mean[...], norm.scale[...] = noise(4), noise(4) + 2

    def of(x):
        return jax.nn.relu(norm(layer(x)))

    made = converted(of, POSITIVE)
    kinds = {node.op_type for node in made.graph.node}
    assert not {"Mul", "Add"} & kinds
    found = run(made, POSITIVE)
    np.testing.assert_allclose(found, of(POSITIVE), rtol=1e-4, atol=1e-4)


def test_a_factor_that_others_see_is_not_folded():
    kernel = noise(1, 1, 4, 4)

    def of(x):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y * 2 + jnp.tanh(y)

    image = noise(1, 4, 4, 4)
    np.testing.assert_allclose(
        run(converted(of, image), image), of(image), atol=1e-5
    )


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: jnp.sort(x, 3), "sort"),
        (lambda x: x[:, : x.shape[1] // 8], "slice up to h of 8\\*h"),
        (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), "product"),
        (lambda x: x.astype(jnp.bfloat16) * 2, "bfloat16"),
    ],
)
def test_what_has_no_place_is_refused_by_name(function, match):
    with pytest.raises(graph.UnsupportedError, match=match):
        converted(function, noise(2, 8, 6, 4))
