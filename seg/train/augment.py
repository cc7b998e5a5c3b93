"""Random changes of a batch of training tiles, in pure JAX, inside the step.

    image  float32 [B, H, W, C], normalised so that its range is about [0, 1]
           (percentile, minmax or range): brightness, contrast, gamma, noise
           and inversion are meant on that scale. Values outside it are kept.
    masks  {name: integer [B, H, W]}; each moves with its image, by nearest
           neighbour, and never gets a value that it did not have, save the
           one of `outside` where the image is filled.

Each sample draws from its own key, `fold_in(key, index in the batch)`, and each
knob its own number of it: the result does not depend on how the batch is laid
over devices, and switching one knob on leaves what the others draw unchanged.

Flips and quarter turns move whole pixels and change no value. Rotation, scale,
crop-and-pad and elastic deformation become one map of places and one
resampling, which gives a sample back exactly if it drew none of them. The knobs
are Python values: what is switched off is not in the compiled program. Two CPU
cores take 7 ms for the defaults of `config.Augment` on 8 x 256 x 256 x 1, and
20 ms with everything on but elastic deformation.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import random

from seg import config

OUTSIDE = {"classes": 255, "labels": -1}
"""What a mask holds where the image was filled: nobody knows."""

# one uniform number in [0, 1) each; new names go to the end
_DRAWS = (
    "flip_rows", "flip_columns", "turn",
    "rotate", "angle", "scale", "zoom",
    "crop_pad", "top", "bottom", "left", "right",
    "blur", "sigma", "contrast", "brightness", "gamma", "invert", "noise",
    "elastic", "grey",
)  # fmt: skip

# what draws more numbers than one: names of its keys
_NOISE, _ELASTIC, _COLOUR = range(3)


def augment(
    key,
    image,
    masks: Mapping,
    knobs: config.Augment,
    outside: Mapping[str, int] = OUTSIDE,
):
    """Changes a batch; returns (image, masks) of the same shapes and dtypes.

    Quarter turns of tiles that are not square are half turns. Raises KeyError
    at trace time where the resampling is on and `outside` lacks a mask.
    """
    index = jnp.arange(image.shape[0])
    keys = jax.vmap(random.fold_in, (None, 0))(key, index)
    uniform = jax.vmap(lambda k: random.uniform(k, (len(_DRAWS),)))(keys)
    draw = dict(zip(_DRAWS, uniform.T, strict=True))
    image, masks = _dihedral(image, dict(masks), draw, knobs)
    if knobs.rotate or knobs.scale or knobs.crop_pad or knobs.elastic:
        image, masks = _resampled(keys, image, masks, draw, knobs, outside)
    if image.shape[-1] > 1:
        image = _colours(keys, image, draw, knobs)
    image = _photometric(image, draw, knobs)
    if knobs.noise:
        # flat: with a last axis of 3, XLA:CPU takes 27 ms instead of 9
        normal = _drawn(random.normal, keys, _NOISE, (image[0].size,))
        level = draw["noise"] * knobs.noise
        image = image + (normal * level[:, None]).reshape(image.shape)
    return image, masks


def _drawn(kind, keys, name: int, shape):
    """Random numbers [B, *shape]; the ones above came from the keys alone."""
    keys = jax.vmap(random.fold_in, (0, None))(keys, name)
    return jax.vmap(lambda key: kind(key, shape))(keys)


def _per_image(values):
    """[B] -> [B, 1, 1, 1]"""
    return values[:, None, None, None]


def _between(u, low, high):
    """A uniform number in [0, 1) -> [low, high)"""
    return low + u * (high - low)


def _dihedral(image, masks, draw, knobs: config.Augment):
    """Flips and quarter turns: a transposition, then at most two flips."""
    rows = draw["flip_rows"] < knobs.flip
    columns = draw["flip_columns"] < knobs.flip
    transpose = None
    if knobs.quarter_turns:
        square = image.shape[1] == image.shape[2]
        # n of numpy.rot90: 1 = transpose, flip rows; 3 = transpose, columns
        n = (
            jnp.floor(draw["turn"] * 4)
            if square
            else 2.0 * (draw["turn"] < 0.5)
        ).astype(int)
        transpose = (n % 2 == 1) if square else None
        rows ^= (n == 1) | (n == 2)
        columns ^= (n == 2) | (n == 3)
    elif not knobs.flip:
        return image, masks

    def move(x):
        def choose(flag, a, b):
            return jnp.where(flag.reshape(-1, *[1] * (x.ndim - 1)), a, b)

        if transpose is not None:
            x = choose(transpose, jnp.swapaxes(x, 1, 2), x)
        x = choose(rows, x[:, ::-1], x)
        return choose(columns, x[:, :, ::-1], x)

    return move(image), {name: move(mask) for name, mask in masks.items()}


def _resampled(keys, image, masks, draw, knobs: config.Augment, outside):
    """Rotation, scale, crop-and-pad and elastic deformation at once."""
    shape = image.shape[1:3]
    at = jax.vmap(_source, (0, None))(_matrices(draw, shape, knobs), shape)
    if knobs.elastic:
        moved = _elastic(keys, draw["elastic"], shape, knobs)
        at = [a + moved[..., k] for k, a in enumerate(at)]
    if knobs.reflect:
        at = [_folded(a, n) for a, n in zip(at, shape, strict=True)]
    image = jax.vmap(_bilinear, (0, 0, None))(image, at, knobs.fill)
    moved = {
        name: jax.vmap(_nearest, (0, 0, None))(mask, at, outside[name])
        for name, mask in masks.items()
    }
    return image, moved


def _matrices(draw, shape, knobs: config.Augment):
    """[B, 2, 3]: from an output pixel to its place in the input.

    Both in px from the centre of the tile, row first. A sample that draws
    nothing gets the identity to the last bit.
    """
    degrees = _between(
        draw["angle"], -knobs.rotate_degrees, knobs.rotate_degrees
    )
    angle = jnp.where(draw["rotate"] < knobs.rotate, jnp.radians(degrees), 0.0)
    low, high = (math.log2(s) for s in knobs.scale_range)
    zoom = jnp.exp2(_between(draw["zoom"], low, high))
    zoom = jnp.where(draw["scale"] < knobs.scale, zoom, 1.0)
    frac = knobs.crop_pad_frac
    on = draw["crop_pad"] < knobs.crop_pad
    # share of the side that is cropped, or padded where negative
    top, bottom, left, right = (
        jnp.where(on, _between(draw[side], -frac, frac), 0.0)
        for side in ("top", "bottom", "left", "right")
    )
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    size = jnp.stack([1 - top - bottom, 1 - left - right], -1)
    shift = jnp.stack(
        [(top - bottom) * shape[0] / 2, (left - right) * shape[1] / 2], -1
    )
    turn = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], 1)
    return jnp.concatenate([turn * size[:, None], shift[:, :, None]], -1)


def _source(matrix, shape):
    """Where each output pixel lies in the input: rows, columns [H, W], px."""
    center = [(n - 1) / 2 for n in shape]
    row, column = (
        jnp.arange(n, dtype=jnp.float32) - c
        for n, c in zip(shape, center, strict=True)
    )
    return [
        line[0] * row[:, None] + line[1] * column + line[2] + c
        for line, c in zip(matrix, center, strict=True)
    ]


def _elastic(keys, draw, shape, knobs: config.Augment):
    """[B, H, W, 2]: px by which places move, 0 for a sample that draws none.

    Random at the points of a coarse grid, cubic between them (Ronneberger et
    al. 2015).
    """
    n_points = [-(-n // knobs.elastic_spacing) for n in shape]
    coarse = _drawn(random.uniform, keys, _ELASTIC, (*n_points, 2))
    coarse = _between(coarse, -knobs.elastic_px, knobs.elastic_px)
    fine = jax.image.resize(coarse, (len(draw), *shape, 2), "cubic")
    return jnp.where(_per_image(draw < knobs.elastic), fine, 0.0)


def _folded(at, n: int):
    """Places on an axis of n px that is continued by its reflection."""
    inside = jnp.abs(jnp.mod(at + n + 0.5, 2 * n) - n) - 0.5
    # to the last bit what it was, where nothing is folded
    return jnp.where((at >= 0) & (at <= n - 1), at, inside.clip(0, n - 1))


def _bilinear(image, at, fill):
    """image [H, W, C] at (rows, columns), `fill` beyond the tile."""
    height, width, n_channels = image.shape
    # a ring of fill: beyond the tile, the value fades to it within a pixel
    ring = ((1, 1), (1, 1), (0, 0))
    flat = jnp.pad(image, ring, constant_values=fill)
    flat = flat.reshape(-1, n_channels)
    row = jnp.clip(at[0] + 1, 0, height + 1)
    column = jnp.clip(at[1] + 1, 0, width + 1)
    i = jnp.minimum(row.astype(int), height)
    j = jnp.minimum(column.astype(int), width)
    down, right = (row - i)[..., None], (column - j)[..., None]
    first = i * (width + 2) + j
    corners = [flat[first + k] for k in (0, 1, width + 2, width + 3)]
    upper = corners[0] * (1 - right) + corners[1] * right
    lower = corners[2] * (1 - right) + corners[3] * right
    return upper * (1 - down) + lower * down


def _nearest(mask, at, outside: int):
    """mask [H, W] at (rows, columns), `outside` beyond the tile."""
    height, width = mask.shape
    i, j = (jnp.round(x).astype(int) for x in at)
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    found = mask.reshape(-1)[jnp.where(inside, i * width + j, 0)]
    return jnp.where(inside, found, jnp.asarray(outside, mask.dtype))


def _colours(keys, image, draw, knobs: config.Augment):
    """Channels by themselves: their gain and offset, or no colour at all."""
    if knobs.colour:
        shape = 2, 1, 1, image.shape[-1]
        change = _drawn(random.uniform, keys, _COLOUR, shape)
        change = _between(change, -knobs.colour, knobs.colour)
        image = image * (1 + change[:, 0]) + change[:, 1] / 2
    if knobs.grey:
        on = _per_image(draw["grey"] < knobs.grey)
        image = jnp.where(on, jnp.mean(image, -1, keepdims=True), image)
    return image


def _photometric(image, draw, knobs: config.Augment):
    """Blur, contrast and brightness, gamma, inversion."""
    if knobs.blur:
        sigma = jnp.where(
            draw["blur"] < knobs.blur, draw["sigma"] * knobs.blur_sigma, 0.0
        )
        image = _blur(image, sigma, math.ceil(3 * knobs.blur_sigma))
    if knobs.contrast:
        mean = jnp.mean(image, (1, 2), keepdims=True)
        gain = _between(
            draw["contrast"], 1 - knobs.contrast, 1 + knobs.contrast
        )
        image = mean + (image - mean) * _per_image(gain)
    if knobs.brightness:
        offset = _between(
            draw["brightness"], -knobs.brightness, knobs.brightness
        )
        image = image + _per_image(offset)
    if knobs.gamma:
        power = jnp.exp2(_between(draw["gamma"], -knobs.gamma, knobs.gamma))
        # a power of a negative number is NaN, clipping would lose what lies
        # below 0: the tile's lowest value, where negative, stands for 0; a
        # compiler may round it otherwise here than where it finds it lowest
        low = jnp.minimum(jnp.min(image, (1, 2, 3), keepdims=True), 0)
        above = jnp.maximum(image - low, 0)
        image = above ** _per_image(power) + low
    if knobs.invert:
        on = _per_image(draw["invert"] < knobs.invert)
        image = jnp.where(on, 1 - image, image)
    return image


def _blur(image, sigma, radius: int):
    """Gaussian blur of each image by its sigma [B], px; 0 leaves it as it is.

    radius, px, is where the largest kernel is cut; the edge is repeated.
    """
    offset = jnp.arange(-radius, radius + 1)
    # far below one pixel, the kernel is exactly one at the centre
    width = jnp.maximum(sigma, 1e-2)[:, None]
    kernel = jnp.exp(-0.5 * (offset / width) ** 2)
    kernel = kernel / jnp.sum(kernel, 1, keepdims=True)
    for axis in (1, 2):
        n = image.shape[axis]
        pad = [(0, 0)] * 4
        pad[axis] = (radius, radius)
        wide = jnp.pad(image, pad, mode="edge")
        image = sum(
            jax.lax.slice_in_dim(wide, k, k + n, axis=axis)
            * _per_image(kernel[:, k])
            for k in range(2 * radius + 1)
        )
    return image
