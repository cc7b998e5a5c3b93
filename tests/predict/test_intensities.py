"""Claims about scaling and resizing where a model is used: as in training."""

import jax
import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image

from seg import config, normalize
from seg.images import resize
from seg.predict import bundle, export, graph, predictor, streaming
from seg.predict.engine import graphs, xla

CHAINS = (
    "percentile",
    "global",
    "invert + percentile",
    "equalize",
    "standard + minmax + equalize + gamma",
    "range + columns",
)
ALL = "invert + global + minmax + equalize + gamma + standard + columns"


def grey(*shape, low=0, high=255):
    draw = np.random.default_rng(shape)
    return draw.integers(low, high, shape, dtype=np.uint8)


def made(make_bundle, steps, **knobs):
    known = {"data__mean": (80.0,), "data__std": (30.0,)}
    return make_bundle(data__normalize=steps, **known, **knobs)


def network_of(model):
    """The network on what is scaled already."""
    structure, state = xla.split(bundle.model(model))
    none = np.zeros((1, 1, len(normalize.COLUMNS)), np.float32)

    def run(image):
        return np.asarray(
            xla._compiled(structure, "none", state, image[None], none)[0]
        )

    return run


@pytest.mark.parametrize("steps", CHAINS)
def test_a_model_sees_its_image_scaled_as_a_whole(make_bundle, tmp_path, steps):
    model = made(make_bundle, steps)
    image = grey(32, 32, low=90)  # one window
    scaled = normalize.apply(
        image[..., None],
        normalize.measure(image[..., None]),
        normalize.scaling(model.config.data),
    )
    wanted = network_of(model)(scaled)
    use = predictor.Predictor(model, engine="jax")
    np.testing.assert_allclose(use.probabilities(image), wanted, atol=1e-4)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    found = use(path, probabilities=True)
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-4)
    assert wanted.std() > 0.01


@pytest.mark.parametrize("steps", ["invert + equalize + gamma", "columns"])
def test_a_slide_is_scaled_as_its_image(make_bundle, tmp_path, steps):
    use = predictor.Predictor(made(make_bundle, steps), engine="jax")
    image = grey(70, 40, low=90)
    path = tmp_path / "a.tif"
    Image.fromarray(image).save(path)
    found = streaming.segment(use, path, tmp_path / "work", {})
    strips = np.concatenate([*found.probabilities()])
    wanted = use.probabilities(image)
    np.testing.assert_allclose(strips, wanted, atol=2e-5)


def dark_and_bright():
    """Two images of 8 bits as a program takes them, and their statistics."""
    image = grey(2, 32, 48, 1)
    image[1] //= 5
    stats = np.stack([normalize.measure(one) for one in image])
    return image.astype(np.float32), stats


def test_a_program_holds_the_steps(make_bundle):
    model = made(make_bundle, "invert + equalize + columns")
    content = export.stablehlo(model, ("cpu",))
    program = jax_export.deserialize(bytearray(content))
    found = program.call(*dark_and_bright())
    structure, state = xla.split(bundle.model(model))
    how = normalize.scaling(model.config.data)
    wanted = xla._compiled(structure, how, state, *dark_and_bright())
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.asarray(wanted).std() > 0.01


def test_a_graph_holds_every_step(make_bundle):
    how = normalize.scaling(made(make_bundle, ALL).config.data)
    image, stats = dark_and_bright()
    examples = [
        jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (image, stats)
    ]
    graph_of = graph.convert(
        lambda *given: normalize.apply(*given, how),
        examples,
        ("image", "stats"),
        "scaled",
    )
    content = graph_of.SerializeToString()
    wanted = normalize.apply(image, stats, how)
    for engine in (graphs.OnnxRuntime, graphs.OpenVino):
        found = engine(content, 1, "f32").call(image, stats)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert wanted.std() > 0.01


def test_the_digest_of_a_model_tells_its_scaling(make_bundle):
    model = made(make_bundle, "minmax + gamma")
    others = [
        made(make_bundle, "minmax"),
        made(make_bundle, "minmax + gamma", data__gamma=2.0),
        made(make_bundle, "minmax + gamma", data__resize=256),
    ]
    digests = {bundle.digest(each) for each in (model, *others)}
    assert len(digests) == 4


@pytest.mark.parametrize("shape", [(32, 32), (50, 71), (20, 90)])
def test_a_resized_image_gives_a_map_of_its_own_size(make_bundle, shape):
    model = make_bundle(data__resize=32, data__tile=32)
    image = grey(*shape)
    small = resize.linear(image[..., None], (32, 32))
    stats = normalize.measure(image[..., None])
    scaled = normalize.apply(small, stats, "percentile")
    wanted = resize.linear(network_of(model)(scaled), shape)
    found = predictor.Predictor(model, engine="jax")(image, probabilities=True)
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)
    assert found.labels.shape == found.classes.shape == shape


def test_a_model_of_resized_images_refuses_slides(make_bundle, tmp_path):
    use = predictor.Predictor(make_bundle(data__resize=32, data__tile=32))
    with pytest.raises(config.UserError, match="slide is too large"):
        streaming.segment(use, tmp_path / "a.tif", tmp_path / "work", {})
    with pytest.raises(config.UserError, match=r"data\.resize=0"):
        next(use.strips(lambda *_: None, (32, 32), None))


@pytest.mark.parametrize("shape", [(13, 40), (31, 7), (24, 24), (5, 90)])
def test_resizing_is_jaxs(shape):
    image = grey(24, 24, 3).astype(np.float32)
    wanted = jax.image.resize(image, (*shape, 3), "linear", antialias=True)
    np.testing.assert_allclose(
        resize.linear(image, shape), wanted, rtol=1e-4, atol=1e-3
    )
    labels = grey(24, 24)
    wanted = jax.image.resize(labels, shape, "nearest")
    np.testing.assert_array_equal(resize.nearest(labels, shape), wanted)


def test_resizing_keeps_dtype_and_constants():
    for dtype in (np.uint8, np.uint16, np.float32):
        image = np.full((9, 14, 2), 200, dtype)
        found = resize.linear(image, (31, 5))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, 200, rtol=1e-6)
