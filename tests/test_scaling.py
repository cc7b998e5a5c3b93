"""Claims about the steps of a scaling: each by its oracle, and in a row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import exposure

from seg import config, normalize, tiles

TYPES = (np.uint8, np.uint16, np.float32)
PART = 1 / 64  # what the knots of the distribution resolve
CHAINS = (
    "equalize",
    "minmax + gamma",
    "invert + percentile",
    "invert + equalize",
    "percentile + invert + minmax",
    "range + gamma + standard",
    "global + minmax + equalize + gamma",
    "standard + minmax + equalize + gamma",
)


def drawn(dtype, shape=(61, 83, 2), seed=0, bright=False):
    """Cells on an uneven ground, with noise: an image of the type."""
    draw = np.random.default_rng(seed)
    rows, cols = np.indices(shape[:2])[..., None] / 9
    picture = np.sin(rows) * np.sin(cols + np.arange(shape[-1])) ** 3
    picture = 0.3 + 0.2 * picture + 0.04 * draw.normal(size=shape)
    picture = np.clip(1 - picture if bright else picture, 0, 1)
    if dtype is np.float32:
        return picture.astype(dtype)
    return np.rint(picture * np.iinfo(dtype).max).astype(dtype)


def how(steps, **knobs):
    knobs = {"mean": (30.0, 50.0), "std": (7.0, 9.0)} | knobs
    return normalize.scaling(config.Data(normalize=steps, **knobs))


def scaled(image, steps, **knobs):
    return normalize.apply(image, normalize.measure(image), how(steps, **knobs))


def equalized(image):
    """As OpenCV's equalizeHist has it: the minimum becomes 0."""
    channels = []
    for channel in np.moveaxis(image, -1, 0):
        _, at, n = np.unique(channel, return_inverse=True, return_counts=True)
        passed = np.cumsum(n) - n[0]
        channels.append((passed / max(passed[-1], 1))[at].reshape(at.shape))
    return np.stack(channels, -1)


def oracle(image, step):
    """One step of whole images, by NumPy and scikit-image alone."""
    low, high = image.min((0, 1)), image.max((0, 1))
    if step == "percentile":
        low, high = np.percentile(image, (1, 99.8), (0, 1))
    if step in ("percentile", "minmax"):
        return (image - low) / (high - low)
    if step == "standard":
        return (image - image.mean((0, 1))) / image.std((0, 1))
    if step == "global":
        return (image - [30.0, 50.0]) / [7.0, 9.0]
    if step == "equalize":
        return equalized(image)
    assert step == "gamma"
    return exposure.adjust_gamma(np.clip(image, 0, 1), 1 / 1.2)


def chained(image, chain):
    limit = 1 if image.dtype == np.float32 else np.iinfo(image.dtype).max
    found, bright = image.astype(np.float64), image.mean() > limit * 80 / 255
    for at, step in enumerate(chain.split(" + ")):
        if step == "invert":
            high = found.max((0, 1)) if at else limit
            found = high - found if bright else found
        elif step == "range":
            found = found / limit
        else:
            found = oracle(found, step)
    return found


@pytest.mark.parametrize("bright", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_is_the_steps_one_after_another(chain, dtype, bright):
    image = drawn(dtype, bright=bright)
    wanted = chained(image, chain)
    found = scaled(image, chain)
    assert found.dtype == np.float32
    near = PART if "equalize" in chain else 2e-5
    if chain.endswith("gamma + standard"):
        near = 0.01  # of the deviation, which the knots give
    scale = max(1, np.abs(wanted).max())
    assert np.abs(found - wanted).max() < near * scale
    assert np.abs(found - wanted).mean() < near * scale / 4


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_equalize_is_scikit_images_from_the_minimum_on(dtype, seed):
    image = drawn(dtype, (120, 100, 1), seed)
    share = exposure.equalize_hist(image[..., 0], nbins=2**16)
    wanted = (share - share.min()) / (1 - share.min())
    found = scaled(image, "equalize")[..., 0]
    assert np.abs(found - wanted).max() < PART
    assert np.abs(found - wanted).mean() < PART / 8
    assert found.min() == 0 and found.max() == pytest.approx(1)


@pytest.mark.parametrize("n_levels", [2, 3, 17])
@pytest.mark.parametrize("steps", ["equalize", "invert + equalize"])
def test_equalize_of_few_levels(n_levels, steps):
    """Levels that hold more pixels than lie between two knots."""
    draw = np.random.default_rng(n_levels)
    levels = np.sort(draw.choice(200, n_levels, replace=False)) + 50
    share = draw.dirichlet(np.ones(n_levels))
    image = draw.choice(levels, (90, 90, 1), p=share).astype(np.uint8)
    found = scaled(image, steps)
    np.testing.assert_allclose(found, chained(image, steps), atol=PART)
    assert len(np.unique(found)) == len(np.unique(image))


def test_equalize_looks_past_a_black_ground():
    """What 95 of 100 pixels have is the minimum, and does not count."""
    image = drawn(np.uint16, (100, 100, 1))
    image[:, 5:] = 0
    found = scaled(image, "equalize")
    np.testing.assert_allclose(found, equalized(image), atol=PART)
    assert not found[:, 5:].any()


def test_the_order_of_steps_matters():
    image = drawn(np.uint8, bright=True)
    one = scaled(image, "invert + minmax + gamma")
    other = scaled(image, "minmax + gamma + invert")
    assert np.abs(one - other).max() > 0.05
    np.testing.assert_allclose(
        scaled(image, "global + standard + minmax"),
        scaled(image, "minmax"),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("dtype", "dark", "bright"),
    [(np.uint8, 80, 81), (np.uint16, 20559, 20561), (np.float32, 0.31, 0.32)],
)
def test_only_bright_images_are_inverted(dtype, dark, bright):
    limit = 1 if dtype is np.float32 else np.iinfo(dtype).max
    for value, wanted in ((dark, dark), (bright, limit - bright)):
        found = scaled(np.full((3, 3, 2), value, dtype), "invert")
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    image = np.full((3, 3, 2), value, dtype)
    assert (scaled(image, "invert", invert_above=90.0) == image).all()


def test_channels_are_inverted_together():
    image = np.zeros((3, 3, 2), np.uint8)
    image[..., 1] = 200
    assert scaled(image, "invert")[0, 0].tolist() == [255, 55]


def test_columns_are_kerass_normalize_of_the_tile():
    image = drawn(np.uint8)
    image[:, 7] = 0
    stats = normalize.measure(image)
    tile = image[16:48, :32]
    wanted = tile / 255
    norm = np.linalg.norm(wanted, axis=0, keepdims=True)
    norm[norm == 0] = 1
    for steps in ("columns", "range + columns"):
        found = normalize.apply(tile, stats, how(steps, tile=32))
        np.testing.assert_allclose(found, wanted / norm, atol=1e-6)


def test_columns_look_alike_in_windows_of_any_height():
    image = np.tile(drawn(np.uint8)[:16], (4, 1, 1))
    stats, scaling = normalize.measure(image), how("range + columns", tile=64)
    whole = normalize.apply(image, stats, scaling)
    part = normalize.apply(image[:16], stats, scaling)
    np.testing.assert_allclose(part, whole[:16], rtol=1e-5)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("value", [0, 9, 255])
def test_a_constant_image_is_finite(chain, value):
    for dtype in TYPES:
        found = scaled(np.full((5, 6, 2), value, dtype), chain)
        assert np.isfinite(found).all() and not np.ptp(found, (0, 1)).any()
        if "minmax" in chain or "equalize" in chain:
            assert not found.any()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("chain", CHAINS)
def test_jax_tiles_and_strips_give_the_same(chain, dtype):
    images = [drawn(dtype, (40, 50, 2), seed, seed == 1) for seed in range(2)]
    stats = [normalize.measure(image) for image in images]
    whole = [
        normalize.apply(*each, how(chain))
        for each in zip(images, stats, strict=True)
    ]
    compiled = jax.jit(lambda x, s: normalize.apply(x, s, how(chain)))
    found = compiled(jnp.asarray(images), jnp.asarray(stats))
    np.testing.assert_allclose(found, whole, atol=2e-4)
    for row, col in tiles.windows((40, 50), 16, 0.25)[::3]:
        cut = np.s_[row : row + 16, col : col + 16]
        part = normalize.apply(images[1][cut], stats[1], how(chain))
        np.testing.assert_array_equal(part, whole[1][cut])
    strips = [images[1][i : i + 7] for i in range(0, 40, 7)]
    again = normalize.measure_strips(lambda: strips, images[1].dtype)
    np.testing.assert_allclose(again, stats[1], rtol=1e-6)


def test_knots_of_floats_lie_where_the_pixels_are():
    """On a high ground, with an outlier: no histogram of equal bins would."""
    draw = np.random.default_rng(0)
    image = (1000 + 5 * draw.random((300, 300, 1))).astype(np.float32)
    image[0, 0] = 1e6
    row = normalize.measure(image)[0]
    first = normalize.COLUMNS.index("up_1")
    wanted = np.quantile(image, np.arange(1, 64) / 64)
    np.testing.assert_allclose(row[first : first + 63], wanted, rtol=4e-5)
    np.testing.assert_allclose(row[first + 63 :], wanted[::-1], rtol=4e-5)


def test_pooled_numbers_are_those_of_all_pixels_together():
    images = [drawn(np.uint8, (20 + 9 * i, 31, 2), i, i == 1) for i in range(3)]
    measured = [
        (image[..., 0].size, normalize.measure(image)) for image in images
    ]
    for steps, of in (("global", np.asarray), ("invert + global", None)):
        data = config.Data(normalize=steps)
        found = normalize.pooled(iter(measured), data)
        pixels = [chained(i, "invert") if of is None else i for i in images]
        pixels = np.concatenate([each.reshape(-1, 2) for each in pixels])
        np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-5)
        assert normalize.pooled(iter(measured), found) is found
        filled = [
            normalize.apply(i, s, normalize.scaling(found))
            for i, (_, s) in zip(images, measured, strict=True)
        ]
        flat = np.concatenate([each.reshape(-1, 2) for each in filled])
        np.testing.assert_allclose(flat.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(flat.std(0), 1, atol=1e-4)
    other = config.Data(normalize="minmax")
    assert normalize.pooled(iter(()), other) is other


def test_what_is_not_known_is_said():
    image = drawn(np.uint8)
    with pytest.raises(config.ConfigError, match=r"give data\.mean and data"):
        scaled(image, "global", mean=(), std=())
    older = normalize.measure(image)[:, :7]
    for steps in ("percentile", "standard + minmax", "invert + range"):
        normalize.apply(image, older, how(steps))
    with pytest.raises(config.ConfigError, match=r"7 columns.*prepare"):
        normalize.apply(image, older, how("equalize"))


def test_statistics_of_an_older_version_are_completed():
    image = drawn(np.uint8)
    measured = normalize.measure(image)
    wide = image.astype(np.uint16)  # as it lies beside images of 16 bits
    found = normalize.completed(measured[:, :7], wide)
    np.testing.assert_array_equal(found, measured)
    assert normalize.completed(measured, wide) is measured


def test_a_scaling_is_a_key_of_compiled_programs():
    same = how("equalize"), how(" equalize ")
    assert same[0] == same[1] and hash(same[0]) == hash(same[1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        same[0].gamma = 3
