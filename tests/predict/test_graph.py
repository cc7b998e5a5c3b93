"""Claims about graphs: equal to JAX at any size, lean, or refused by name."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from seg import normalize
from seg.predict import bundle, graph
from seg.predict.engine import xla


def noise(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def run(model, *arrays):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [each.name for each in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, arrays, strict=True)))
    return found


def converted(function, *arrays):
    examples = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]
    names = [f"x{i}" for i in range(len(arrays))]
    return graph.convert(function, examples, names, "y")


def program(model):
    network = bundle.model(model)
    structure, state = xla.split(network)
    kind = model.config.data.normalize

    def of(image, stats):
        return xla.apply(structure, kind, state, image, stats)

    return of, network.stride


NETWORKS = [
    {},
    {"model__name": "unet_small"},
    {"model__norm": "none", "model__stem": 2, "data__normalize": "standard"},
    {
        "model__name": "unet_small",
        "model__stem": 2,
        "model__in_channels": 3,
        "model__n_classes": 3,
        "classes": ("background", "a", "b"),
    },
]


@pytest.mark.parametrize("knobs", NETWORKS)
def test_a_network_gives_the_same_at_any_size(make_bundle, knobs):
    model = make_bundle(**knobs)
    of, stride = program(model)
    channels = model.config.model.in_channels
    sizes = len(normalize.COLUMNS)
    made = graph.convert(
        of,
        [
            jax.ShapeDtypeStruct((2, 32, 32, channels), jnp.float32),
            jax.ShapeDtypeStruct((2, channels, sizes), jnp.float32),
        ],
        ("image", "stats"),
        "probabilities",
    )
    onnx.checker.check_model(made, full_check=True)
    for b, h, w in ((2, 32, 32), (1, stride, 3 * stride), (3, 40, 24)):
        image = 100 + 40 * noise(b, h, w, channels)
        stats = np.stack([normalize.measure(one) for one in image])
        found = run(made, image, stats)
        np.testing.assert_allclose(found, of(image, stats), atol=1e-5)
        assert found.std() > 0


def test_it_is_channels_first_inside_and_batchnorm_is_folded(make_bundle):
    of, _ = program(make_bundle(model__name="unet_small"))
    made = converted(of, noise(2, 32, 32, 1), noise(2, 1, 7))
    count = collections.Counter(node.op_type for node in made.graph.node)
    # in and out
    assert count["Transpose"] <= 2
    convolved = {n.output[0] for n in made.graph.node if n.op_type == "Conv"}
    for node in made.graph.node:
        if node.op_type in ("Mul", "Add"):
            assert not convolved & set(node.input)
    assert count["MaxPool"] == 2 and count["DepthToSpace"] == 2


POSITIVE = np.abs(noise(2, 8, 6, 4)) + 0.1
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
    "cut": lambda x: x[:, 1:, ::2, 1:3],
    "joined": lambda x: jnp.concatenate([x, 2 * x], 3),
    "stacked": lambda x: jnp.concatenate([x, 2 * x], 1),
    "chosen": lambda x: jnp.where(x > 0.5, x, -x),
    "shared": lambda x: (x * 2) + (x * 3),
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
        (lambda x: x.reshape(2, -1), "reshape needs the sizes"),
        (lambda x: x[:, :4], "slice needs the sizes"),
        (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), "product"),
        (lambda x: x.astype(jnp.bfloat16) * 2, "bfloat16"),
    ],
)
def test_what_has_no_place_is_refused_by_name(function, match):
    with pytest.raises(graph.UnsupportedError, match=match):
        converted(function, noise(2, 8, 6, 4))
