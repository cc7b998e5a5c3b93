"""Where every pixel of an augmented tile comes from.

Images whose values are their own coordinates show it: the first channel holds
the row, the second the column, and so do two of the masks.
"""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from seg import config
from seg.train import augment

OFF = config.Augment(
    flip=0.0,
    quarter_turns=False,
    brightness=0.0,
    contrast=0.0,
    gamma=0.0,
    noise=0.0,
)
ALL = config.Augment(rotate=0.5, scale=0.5, crop_pad=0.5, blur=0.5, invert=0.5)
# compiling is most of what these tests do
QUICK = {"xla_backend_optimization_level": 0}


@functools.cache
def _jitted(knobs, outside):
    def run(key, image, masks):
        return augment.augment(key, image, masks, knobs, dict(outside))

    return jax.jit(run, compiler_options=QUICK)


def change(image, masks=None, seed=0, outside=augment.OUTSIDE, **knobs):
    """(image, masks) as NumPy arrays, with all but these knobs off."""
    f = _jitted(dataclasses.replace(OFF, **knobs), tuple(outside.items()))
    key = jax.random.key(seed)
    return jax.tree.map(np.array, f(key, np.float32(image), masks or {}))


def coordinates(n, height=16, width=16):
    """An image of rows and columns, and the same as masks."""
    grid = np.indices((height, width))
    image = np.broadcast_to(grid.transpose(1, 2, 0), (n, height, width, 2))
    masks = {"row": image[..., 0], "column": image[..., 1]}
    return image, {k: v.astype(np.int32) for k, v in masks.items()}


def noise_image(n, height=16, width=16, n_channels=1):
    rng = np.random.default_rng(0)
    shape = (n, height, width, n_channels)
    return rng.normal(0.4, 0.3, shape).astype(np.float32)


def dihedral(x):
    """The eight images of one [H, W, ...]."""
    turned = [np.rot90(x, k) for k in range(4)]
    return turned + [np.flip(t, 0) for t in turned]


# --- Flips and turns


def test_all_off_is_the_identity():
    image, masks = coordinates(3)
    result, moved = change(image, masks)
    np.testing.assert_array_equal(result, image)
    for name in masks:
        np.testing.assert_array_equal(moved[name], masks[name])


def test_flips_and_turns_give_each_of_the_eight_alike():
    n = 400
    image, masks = coordinates(n, 6, 6)
    result, moved = change(image, masks, flip=0.5, quarter_turns=True)
    eight = dihedral(image[0])
    count = np.zeros(8, int)
    for b in range(n):
        (k,) = [k for k in range(8) if np.array_equal(result[b], eight[k])]
        count[k] += 1
        np.testing.assert_array_equal(moved["row"][b], result[b, ..., 0])
        np.testing.assert_array_equal(moved["column"][b], result[b, ..., 1])
    # 50 each; three standard deviations are 20
    assert count.min() > 29
    assert count.max() < 71


def test_turns_alone_are_the_four_of_rot90():
    image, _ = coordinates(100, 6, 6)
    result, _ = change(image, quarter_turns=True)
    four = dihedral(image[0])[:4]
    found = [
        [k for k in range(4) if np.array_equal(one, four[k])] for one in result
    ]
    count = np.bincount(np.concatenate(found))
    assert count.sum() == 100
    assert count.min() > 10


def test_tiles_that_are_not_square_keep_their_shape():
    image, masks = coordinates(40, 4, 6)
    result, moved = change(image, masks, flip=0.0, quarter_turns=True)
    same = (result == image).all((1, 2, 3))
    half = (result == image[:, ::-1, ::-1]).all((1, 2, 3))
    assert (same | half).all()
    assert same.any()
    assert half.any()
    np.testing.assert_array_equal(moved["row"], result[..., 0])


def test_flips_alone_happen_with_their_probability():
    image, _ = coordinates(400, 4, 4)
    result, _ = change(image, flip=0.2)
    rows = (result[:, 0, 0, 0] == 3).mean()
    columns = (result[:, 0, 0, 1] == 3).mean()
    assert abs(rows - 0.2) < 0.06
    assert abs(columns - 0.2) < 0.06
    every, _ = change(image, flip=1.0)
    np.testing.assert_array_equal(every, image[:, ::-1, ::-1])


# --- The resampling


def jacobian(result, masks, border=2):
    """[B, 2, 2] by least squares, where the input is seen, and its places."""
    found = []
    for b in range(len(result)):
        n = result.shape[1]
        row, column = masks["row"][b], masks["column"][b]
        seen = (row >= border) & (row < n - border)
        seen &= (column >= border) & (column < n - border)
        at = np.argwhere(seen) - (n - 1) / 2
        a = np.column_stack([at, np.ones(len(at))])
        solution, *_ = np.linalg.lstsq(a, result[b][seen], rcond=None)
        # rows: output row, output column, 1; columns: input row and column
        np.testing.assert_allclose(a @ solution, result[b][seen], atol=1e-3)
        found.append(solution)
    return np.array(found)


BEYOND = {"row": -9, "column": -9}


def test_image_and_mask_move_together_within_half_a_pixel():
    image, masks = coordinates(16, 32, 32)
    result, moved = change(
        image,
        masks,
        outside=BEYOND,
        flip=0.5,
        quarter_turns=True,
        rotate=0.8,
        scale=0.8,
        crop_pad=0.8,
    )
    row, column = moved["row"], moved["column"]
    inside = (row > 0) & (row < 31) & (column > 0) & (column < 31)
    assert inside.mean() > 0.5
    assert np.abs(result[..., 0] - row)[inside].max() <= 0.501
    assert np.abs(result[..., 1] - column)[inside].max() <= 0.501


def test_a_rotation_turns_about_the_centre_by_any_angle_in_range():
    image, masks = coordinates(64, 32, 32)
    result, moved = change(
        image, masks, outside=BEYOND, rotate=1.0, rotate_degrees=60.0
    )
    fit = jacobian(result, moved)
    turn, centre = fit[:, :2], fit[:, 2]
    np.testing.assert_allclose(centre, 15.5, atol=1e-3)
    np.testing.assert_allclose(
        turn @ turn.transpose(0, 2, 1),
        np.tile(np.eye(2), (64, 1, 1)),
        atol=1e-4,
    )
    assert (np.linalg.det(turn) > 0).all()
    degrees = np.degrees(np.arctan2(turn[:, 0, 1], turn[:, 0, 0]))
    assert np.abs(degrees).max() <= 60.01
    assert degrees.min() < -30
    assert degrees.max() > 30


def test_a_scale_is_a_zoom_about_the_centre():
    image, masks = coordinates(64, 32, 32)
    result, moved = change(
        image, masks, outside=BEYOND, scale=1.0, scale_range=(0.5, 2.0)
    )
    fit = jacobian(result, moved)
    np.testing.assert_allclose(fit[:, 2], 15.5, atol=1e-3)
    zoom = 1 / fit[:, 0, 0]
    true = np.eye(2) / zoom[:, None, None]
    np.testing.assert_allclose(fit[:, :2], true, atol=1e-4)
    assert zoom.min() >= 0.499
    assert zoom.max() <= 2.001
    # as often larger as smaller
    assert 20 <= (zoom > 1).sum() <= 44


def test_crop_and_pad_moves_each_side_by_its_share():
    image, masks = coordinates(64, 32, 32)
    result, moved = change(
        image, masks, outside=BEYOND, crop_pad=1.0, crop_pad_frac=0.25
    )
    fit = jacobian(result, moved)
    np.testing.assert_allclose(fit[:, 0, 1], 0, atol=1e-4)
    np.testing.assert_allclose(fit[:, 1, 0], 0, atol=1e-4)
    for axis in (0, 1):
        first = fit[:, 2, axis] - 16 * fit[:, axis, axis] + 0.5
        last = fit[:, 2, axis] + 16 * fit[:, axis, axis] + 0.5
        for cut in (first, 32 - last):
            assert np.abs(cut).max() <= 8.01
            assert cut.min() < -3
            assert cut.max() > 3


def test_the_resampling_equals_scipys():
    image = noise_image(8, 20, 24, 2)
    rng = np.random.default_rng(0)
    masks = {"labels": rng.integers(1, 9, (8, 20, 24)).astype(np.int32)}
    knobs = {"rotate": 1.0, "scale": 1.0, "crop_pad": 1.0, "fill": 0.7}
    result, moved = change(image, masks, **knobs)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(0), jnp.arange(8)
    )
    draws = jax.vmap(lambda k: jax.random.uniform(k, (len(augment._DRAWS),)))
    draw = dict(zip(augment._DRAWS, draws(keys).T, strict=True))
    matrices = np.float64(
        augment._matrices(draw, (20, 24), dataclasses.replace(OFF, **knobs))
    )
    centre = np.array([9.5, 11.5])
    for b in range(8):
        matrix = matrices[b, :, :2]
        offset = matrices[b, :, 2] + centre - matrix @ centre
        for c in range(2):
            true = ndimage.affine_transform(
                image[b, ..., c], matrix, offset, order=1,
                mode="grid-constant", cval=0.7,
            )  # fmt: skip
            np.testing.assert_allclose(result[b, ..., c], true, atol=1e-4)
        true = ndimage.affine_transform(
            masks["labels"][b], matrix, offset, order=0, mode="grid-constant",
            cval=-1,
        )  # fmt: skip
        assert (moved["labels"][b] == true).mean() > 0.99


def test_beyond_the_tile_lies_fill_and_nobody_knows_what():
    image = np.ones((4, 16, 16, 1))
    masks = {
        "classes": np.ones((4, 16, 16), np.uint8),
        "labels": np.full((4, 16, 16), 70000, np.int32),
    }
    result, moved = change(
        image, masks, scale=1.0, scale_range=(0.5, 0.5), fill=-0.25
    )
    assert moved["classes"].dtype == np.uint8
    assert moved["labels"].dtype == np.int32
    beyond = np.ones((4, 16, 16), bool)
    beyond[:, 4:12, 4:12] = False
    np.testing.assert_array_equal(moved["classes"], np.where(beyond, 255, 1))
    np.testing.assert_array_equal(moved["labels"], np.where(beyond, -1, 70000))
    assert (result[..., 0][beyond] == -0.25).all()
    assert (result[:, 5:11, 5:11] == 1).all()


def test_beyond_the_tile_lies_its_reflection_where_wanted():
    image = noise_image(2, 16, 12)
    labels = np.arange(2 * 16 * 12).reshape(2, 16, 12).astype(np.int32)
    result, moved = change(
        image,
        {"labels": labels},
        scale=1.0,
        scale_range=(0.25, 0.25),
        reflect=True,
    )
    rows, columns = (
        np.pad(np.arange(n), 3 * n // 2, mode="symmetric") for n in (16, 12)
    )
    # each new pixel lies in the middle of four by four of the wide image
    at = np.ix_(rows[1::4], columns[1::4]), np.ix_(rows[2::4], columns[2::4])
    for b in range(2):
        low, high = (image[b, ..., 0][where] for where in at)
        cross = [
            image[b, ..., 0][np.ix_(rows[i::4], columns[j::4])]
            for i, j in ((1, 2), (2, 1))
        ]
        true = (low + high + sum(cross)) / 4
        np.testing.assert_allclose(result[b, ..., 0], true, atol=1e-5)
        assert np.isin(moved["labels"][b], labels[b]).all()


def test_an_elastic_deformation_is_smooth_and_as_large_as_it_may_be():
    image, masks = coordinates(32, 48, 40)
    result, moved = change(
        image, masks, outside=BEYOND, elastic=1.0, elastic_px=3.0,
        elastic_spacing=16,
    )  # fmt: skip
    inside = (slice(None), slice(6, -6), slice(6, -6))
    shift = (result - image)[inside]
    assert 2 < np.abs(shift).max() < 3 * 1.6  # cubic: beyond its points
    assert np.abs(shift.mean()) < 0.3
    for axis in (1, 2):  # no jump: 3 px in 16, twice over at a steep place
        assert np.abs(np.diff(shift, axis=axis)).max() < 0.8
    # both ways at once, and not one shift for all of a tile
    assert np.ptp(shift, (1, 2)).min() > 1
    for name, channel in (("row", 0), ("column", 1)):
        away = moved[name][inside] - result[..., channel][inside]
        assert np.abs(away).max() <= 0.501


def test_samples_that_draw_no_resampling_come_back_bit_by_bit():
    image = noise_image(200, 8, 8)
    labels = np.arange(200 * 64).reshape(200, 8, 8).astype(np.int32)
    for knob in ("rotate", "scale", "crop_pad", "elastic"):
        result, moved = change(image, {"labels": labels}, **{knob: 0.3})
        same = (result == image).all((1, 2, 3))
        assert 0.55 < same.mean() < 0.85, knob
        np.testing.assert_array_equal(moved["labels"][same], labels[same])


# --- Intensities


def test_intensity_changes_leave_the_masks_alone():
    image, masks = coordinates(4)
    knobs = {"blur": 1.0, "contrast": 0.5, "brightness": 0.5, "gamma": 0.5}
    result, moved = change(image, masks, invert=1.0, noise=0.1, **knobs)
    assert not np.array_equal(result, image)
    for name in masks:
        np.testing.assert_array_equal(moved[name], masks[name])


def test_brightness_adds_one_number_to_a_tile():
    image = noise_image(100)
    step = change(image, brightness=0.3)[0] - image
    np.testing.assert_allclose(np.ptp(step, (1, 2, 3)), 0, atol=1e-6)
    step = step[:, 0, 0, 0]
    assert np.abs(step).max() <= 0.3
    assert step.min() < -0.2
    assert step.max() > 0.2


def test_contrast_scales_about_the_mean_of_each_channel():
    image = noise_image(100, n_channels=3)
    result, _ = change(image, contrast=0.4)
    mean = image.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(
        result.mean((1, 2), keepdims=True), mean, atol=1e-5
    )
    gain = result.std((1, 2)) / image.std((1, 2))
    np.testing.assert_allclose(np.ptp(gain, 1), 0, atol=1e-4)
    true = mean + (image - mean) * gain[:, None, None]
    np.testing.assert_allclose(result, true, atol=1e-4)
    assert 0.6 <= gain.min() < 0.8
    assert 1.2 < gain.max() <= 1.4


def test_gamma_is_a_power_between_zero_and_one():
    x = np.linspace(0, 1.5, 256).reshape(1, 16, 16, 1)
    result = change(np.tile(x, (100, 1, 1, 1)), gamma=0.5)[0].astype(float)
    at = np.argmin(np.abs(x - 0.5))
    power = np.log(result.reshape(100, -1)[:, at]) / np.log(x.ravel()[at])
    np.testing.assert_allclose(
        result, x ** power[:, None, None, None], atol=1e-4
    )
    log2 = np.log2(power)
    assert np.abs(log2).max() <= 0.501
    assert log2.min() < -0.35
    assert log2.max() > 0.35


def test_gamma_is_finite_where_the_lowest_value_is_rounded_in_two_ways():
    """Contrast, computed once more beside the power, may end in another digit;
    a power of what then lies below the lowest value would be NaN."""
    image = np.random.default_rng(0).integers(0, 60, (64, 16, 16, 1)) / 255
    result, _ = change(image, contrast=0.2, gamma=0.2, noise=0.02)
    assert np.isfinite(result).all()


def test_gamma_keeps_the_order_of_values_below_zero():
    image = noise_image(50)
    assert (image < 0).any((1, 2, 3)).all()
    result, _ = change(image, gamma=1.0)
    assert np.isfinite(result).all()
    for b in range(50):
        order = np.argsort(image[b].ravel())
        assert (np.diff(result[b].ravel()[order]) >= 0).all()
        # nothing is clipped: different values stay different
        assert np.unique(result[b]).size > 0.95 * image[b].size


def test_inversion_mirrors_at_one_half():
    image = noise_image(100)
    result, _ = change(image, invert=0.4)
    same = (result == image).all((1, 2, 3))
    np.testing.assert_array_equal(result[~same], (1 - image)[~same])
    assert 0.4 < same.mean() < 0.8


def test_colour_channels_change_each_by_itself_and_grey_images_not():
    image = noise_image(100, n_channels=3)
    result, _ = change(image, colour=0.3)
    for b in range(100):
        for c in range(3):
            x, y = image[b, ..., c].ravel(), result[b, ..., c].ravel()
            gain, offset = np.polyfit(x, y, 1)
            assert abs(gain - 1) <= 0.301 and abs(offset) <= 0.151
            np.testing.assert_allclose(gain * x + offset, y, atol=1e-4)
    gains = result.std((1, 2)) / image.std((1, 2))
    assert np.ptp(gains, 1).max() > 0.3
    grey = noise_image(5)
    np.testing.assert_array_equal(change(grey, colour=0.3)[0], grey)


def test_some_colour_images_lose_their_colour():
    image = noise_image(100, n_channels=3)
    result, _ = change(image, grey=0.4)
    same = (result == image).all((1, 2, 3))
    assert 0.4 < same.mean() < 0.8
    mean = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    np.testing.assert_allclose(result[~same], mean[~same], atol=1e-6)


def test_noise_is_normal_and_its_own_in_every_pixel():
    image = np.zeros((64, 32, 32, 2))
    result = change(image, noise=0.2)[0].astype(float)
    std = result.std((1, 2, 3))
    assert std.max() <= 0.21
    assert std.min() < 0.05
    unit = result / std[:, None, None, None]
    assert abs(unit.mean()) < 0.02
    # the fourth moment of a normal variable is 3
    assert abs((unit**4).mean() - 3) < 0.15
    flat = unit.reshape(64, -1)
    neighbours = (flat[:, 1:] * flat[:, :-1]).mean()
    samples = (flat[1:] * flat[:-1]).mean()
    assert abs(neighbours) < 0.02
    assert abs(samples) < 0.02


def test_blur_equals_scipys():
    image = noise_image(4, 20, 24, 2)
    sigma = np.array([0.0, 0.4, 1.3, 2.0], np.float32)
    result = np.asarray(
        jax.jit(augment._blur, static_argnums=2)(image, sigma, 6)
    )
    np.testing.assert_array_equal(result[0], image[0])
    for b in range(1, 4):
        true = ndimage.gaussian_filter(
            image[b].astype(float), sigma[b], mode="nearest", radius=6,
            axes=(0, 1),
        )  # fmt: skip
        np.testing.assert_allclose(result[b], true, atol=1e-5)


def test_blur_spares_the_samples_that_do_not_draw_it():
    image = noise_image(100, 8, 8)
    result, _ = change(image, blur=0.4)
    same = (result == image).all((1, 2, 3))
    assert 0.4 < same.mean() < 0.8
    assert result[~same].std() < image.std()


# --- Randomness


def test_a_sample_does_not_depend_on_the_rest_of_the_batch():
    image, masks = coordinates(6)
    knobs = dataclasses.asdict(ALL)
    whole, _ = change(image, masks, outside=BEYOND, **knobs)
    half, _ = change(
        image[:3],
        {k: v[:3] for k, v in masks.items()},
        outside=BEYOND,
        **knobs,
    )
    np.testing.assert_allclose(whole[:3], half, atol=1e-5)


def test_samples_and_keys_differ_and_the_same_key_repeats():
    image = np.repeat(noise_image(1), 4, 0)
    knobs = dataclasses.asdict(ALL)
    first, again, other = (
        change(image, seed=seed, **knobs)[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    results = [*first, *other]
    for i, a in enumerate(results):
        assert not any(np.array_equal(a, b) for b in results[:i])


def test_a_knob_leaves_the_draws_of_the_others_unchanged():
    image = noise_image(8)
    flipped, _ = change(image, flip=0.5, quarter_turns=True)
    brighter, _ = change(image, flip=0.5, quarter_turns=True, brightness=0.2)
    step = brighter - flipped
    np.testing.assert_allclose(np.ptp(step, (1, 2, 3)), 0, atol=1e-6)


def test_what_is_off_is_not_in_the_program():
    image, masks = coordinates(2)

    def program(**knobs):
        knobs = dataclasses.replace(OFF, **knobs)
        f = jax.jit(lambda k, x, m: augment.augment(k, x, m, knobs, BEYOND))
        lowered = f.lower(jax.random.key(0), np.float32(image), masks)
        return lowered.compile().as_text()

    nothing = program()
    assert "fusion" not in nothing
    assert "threefry" not in nothing
    default = program(**dataclasses.asdict(config.Augment()))
    assert "gather" not in default
    assert "gather" in program(rotate=0.1)


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from seg import config
from seg.train import augment

knobs = config.Augment(
    rotate=0.5, scale=0.5, crop_pad=0.5, blur=0.5, invert=0.5)
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))
rng = np.random.default_rng(0)
image = rng.random((8, 16, 16, 2), np.float32)
masks = {"labels": rng.integers(0, 9, (8, 16, 16)).astype(np.int32)}
f = jax.jit(lambda k, x, m: augment.augment(k, x, m, knobs))
key = jax.random.key(3)
one = f(key, image, masks)
many = f(key, jax.device_put(image, rows), jax.device_put(masks, rows))
assert len(many[0].sharding.device_set) == 4
np.testing.assert_allclose(one[0], many[0], atol=1e-5)
np.testing.assert_array_equal(one[1]["labels"], many[1]["labels"])
print("equal")
"""


def test_a_batch_over_four_devices_gives_what_one_gives():
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=4"
    flags += " --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr[-2000:]
