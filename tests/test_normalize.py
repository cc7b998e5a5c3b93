"""Claims about intensities: measured once, scaled alike everywhere."""

import jax.numpy as jnp
import numpy as np
import pytest

from seg import normalize, tiles

KINDS = ("percentile", "standard", "minmax", "range", "none")
TYPES = (np.uint8, np.uint16, np.float32)


def drawn(dtype, shape=(37, 41, 2), seed=0):
    """An image of the type, its channels on different scales."""
    draw = np.random.default_rng(seed)
    if dtype is np.float32:
        scale = np.array([1.0, 1e4], np.float32)[: shape[-1]]
        return draw.normal(3, 1, shape).astype(dtype) * scale
    top = np.iinfo(dtype).max
    return draw.integers(top // 8, top // 2, shape).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_measure_is_numpys_statistics_by_channel(dtype):
    image = drawn(dtype)
    stats = normalize.measure(image)
    assert stats.shape == (2, len(normalize.COLUMNS))
    assert stats.dtype == np.float32
    limit = 1 if dtype is np.float32 else np.iinfo(dtype).max
    for channel, row in enumerate(stats):
        pixels = image[..., channel].astype(np.float64)
        wanted = {
            "min": pixels.min(), "max": pixels.max(), "mean": pixels.mean(),
            "std": pixels.std(), "p1": np.percentile(pixels, 1),
            "p99_8": np.percentile(pixels, 99.8), "limit": limit,
            "p0_2": np.percentile(pixels, 0.2),
            "p99": np.percentile(pixels, 99),
            "at_min": (pixels == pixels.min()).mean(),
            "at_max": (pixels == pixels.max()).mean(),
        }  # fmt: skip
        assert tuple(wanted) == normalize.COLUMNS[: len(wanted)]
        found = row[: len(wanted)]
        np.testing.assert_allclose(found, [*wanted.values()], rtol=1e-5)


def test_a_large_bright_image_does_not_overflow():
    image = np.full((2000, 2000, 1), 65535, np.uint16)
    image[::2] = 65533
    (row,) = normalize.measure(image)
    stats = dict(zip(normalize.COLUMNS, row, strict=True))
    assert stats["mean"] == 65534 and stats["std"] == 1


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_maps_what_it_says(dtype, kind):
    image = drawn(dtype)
    found = normalize.apply(image, normalize.measure(image), kind)
    assert found.dtype == np.float32 and found.shape == image.shape
    flat = found.reshape(-1, 2).astype(np.float64)
    if kind == "percentile":
        low, high = np.percentile(flat, (1, 99.8), axis=0)
        np.testing.assert_allclose([low, high], [[0, 0], [1, 1]], atol=1e-4)
    elif kind == "standard":
        np.testing.assert_allclose(flat.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(flat.std(0), 1, atol=1e-4)
    elif kind == "minmax":
        assert flat.min() == 0 and flat.max() == pytest.approx(1)
    elif kind == "range":
        limit = 1 if dtype is np.float32 else np.iinfo(dtype).max
        np.testing.assert_allclose(found, image / np.float32(limit), rtol=1e-6)
    else:
        np.testing.assert_array_equal(found, image.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_image_is_finite_and_0(kind, value):
    for dtype in TYPES:
        image = np.full((5, 6, 1), value, dtype)
        found = normalize.apply(image, normalize.measure(image), kind)
        assert np.isfinite(found).all() and np.ptp(found) == 0
        if kind in ("percentile", "standard", "minmax"):
            assert not found.any()


def test_specks_on_black_are_scaled_too():
    image = np.zeros((100, 100, 1), np.uint16)
    image[3, 4], image[50, 50] = 60000, 30000
    stats = normalize.measure(image)
    found = normalize.apply(image, stats, "percentile")
    assert found[3, 4] == 1 and found[50, 50] == 0.5
    assert np.count_nonzero(found) == 2
    batch = normalize.apply(jnp.asarray(image)[None], stats[None], "percentile")
    np.testing.assert_allclose(batch[0], found, rtol=1e-6)


def test_one_pixel_is_an_image():
    image = np.array([[[9]]], np.uint8)
    for kind in KINDS:
        stats = normalize.measure(image)
        assert np.isfinite(normalize.apply(image, stats, kind)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPES)
def test_jax_gives_what_numpy_gives(kind, dtype):
    batch = np.stack([drawn(dtype, seed=seed) for seed in range(3)])
    stats = np.stack([normalize.measure(image) for image in batch])
    ours = normalize.apply(batch, stats, kind)
    theirs = normalize.apply(jnp.asarray(batch), jnp.asarray(stats), kind)
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-6)
    for image, row, scaled in zip(batch, stats, ours, strict=True):
        np.testing.assert_array_equal(normalize.apply(image, row, kind), scaled)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_is_scaled_as_its_whole_image(kind):
    image = drawn(np.uint16)
    stats = normalize.measure(image)
    whole = normalize.apply(image, stats, kind)
    for row, col in tiles.windows(image.shape[:2], 16, 0.25):
        cut = np.s_[row : row + 16, col : col + 16]
        np.testing.assert_array_equal(
            normalize.apply(image[cut], stats, kind), whole[cut]
        )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("height", [1, 7, 40])
@pytest.mark.parametrize("seed", range(5))
def test_strips_have_the_statistics_of_the_whole(dtype, height, seed):
    """Not nearly: a slide is scaled as if it had been read at once."""
    image = drawn(dtype, (40, 3 + 20 * seed, 2), seed)
    if dtype is np.float32:
        image[::3] *= -1
        image[1::5] = 0
    strips = [image[i : i + height] for i in range(0, len(image), height)]
    found = normalize.measure_strips(lambda: iter(strips), image.dtype)
    whole = normalize.measure(image)
    exact = [normalize.COLUMNS.index(n) for n in ("min", "max", "p1", "p99_8")]
    np.testing.assert_array_equal(found[:, exact], whole[:, exact])
    np.testing.assert_allclose(found, whole, rtol=1e-6)
    wanted = np.percentile(
        image.reshape(-1, 2).astype(np.float64), (1, 99.8), axis=0
    )
    np.testing.assert_allclose(whole[:, exact[2:]], wanted.T, rtol=1e-6)


def test_one_pixel_is_all_its_statistics():
    for value in (-3.5, 0.0, 7.0):
        (row,) = normalize.measure(np.full((1, 1, 1), value, np.float32))
        wanted = np.full(len(normalize.COLUMNS), value)
        wanted[[3, 6, 9, 10]] = 0, 1, 1, 1  # std, limit, shares of the pixels
        assert row.tolist() == wanted.tolist()
