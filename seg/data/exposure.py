"""What a camera makes of light: haze, blur, uneven lamp, dust and noise."""

import numpy as np
from scipy import ndimage

from seg import config


def field(side: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """A periodic smooth random field [side, side], mean 0, deviation 1."""
    noise = rng.standard_normal((side, side), np.float32)
    noise = ndimage.gaussian_filter(noise, sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def expose(
    light: np.ndarray, spec: config.Synthetic, rng: np.random.Generator
) -> np.ndarray:
    """The picture of a light field.

    Parameters
    ----------
    light : float32 [H, W], >= 0, sharp, 1 = a bright object.
    spec : diameter (the reach of the haze), blur, shading and noise are read.
    rng : where the lamp, the dust and the noise come from.

    Returns
    -------
    float32 [H, W], about 0 to 1; not clipped.
    """
    shape = light.shape
    light = _dusty(light, spec, rng)
    step = max(round(spec.diameter / 6), 1)  # haze is smooth: a coarse grid
    coarse = light[::step, ::step]
    haze = ndimage.gaussian_filter(coarse, max(spec.diameter / step, 1))
    if spec.blur:
        light = ndimage.gaussian_filter(light, spec.blur)
    light += 0.25 * _enlarged(haze, shape)
    clouds = _enlarged(1 + 0.3 * field(16, 2, rng), shape)
    light += np.float32(rng.uniform(0.04, 0.12)) * np.maximum(clouds, 0)
    light *= np.float32(rng.uniform(0.5, 0.85)) * _lamp(shape, spec, rng)
    # shot noise grows with the root of the light, read noise is everywhere
    noise = rng.standard_normal(shape, np.float32)
    noise *= np.sqrt(0.05 + light)
    light += np.float32(0.35 * spec.noise) * noise
    light += 0.02  # the camera's offset
    return light


def _lamp(shape, spec, rng):
    """Brightness of the illumination [H, W], brightest off the middle."""
    middle = rng.uniform(-0.7, 0.7, 2).astype(np.float32)
    row = np.linspace(-1, 1, shape[0], dtype=np.float32) - middle[0]
    col = np.linspace(-1, 1, shape[1], dtype=np.float32) - middle[1]
    away = (row[:, None] ** 2 + col[None] ** 2) / 3
    return 1 - np.float32(spec.shading) * np.minimum(away, 1)


def _dusty(light, spec, rng):
    """A copy with single bright pixels, which the blur makes small specks."""
    light = light.copy()
    n = rng.poisson(0.1 * spec.n_objects)
    at = rng.integers(0, light.shape[0], n), rng.integers(0, light.shape[1], n)
    light[at] += rng.uniform(0.5, 3, n).astype(np.float32)
    return light


def _enlarged(coarse, shape):
    """A coarse grid stretched to a shape, bilinear."""
    for axis, length in enumerate(shape):
        n = coarse.shape[axis]
        at = np.linspace(0, n - 1, length, dtype=np.float32)
        low = np.minimum(at.astype(int), max(n - 2, 0))
        share = (at - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share[None]
        first = np.take(coarse, low, axis)
        second = np.take(coarse, np.minimum(low + 1, n - 1), axis)
        coarse = first + share * (second - first)
    return coarse
