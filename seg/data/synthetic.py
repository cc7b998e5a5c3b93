"""Drawn microscopy with exact masks: nuclei, cells and beads.

`draw(spec, index)` is a pure function: the same spec and index give the same
bits. An object is a bent, wobbly superellipse in pixels; touching objects are
pushed against each other until they meet, and the late one gives up the few
pixels they share, so contact is contact and nothing hides anything. The masks
are the shapes before the light is blurred: the exact truth.

Light: a dome over each object (thick in the middle, as in wide-field
fluorescence), texture, defocus of some objects, haze around them, the point
spread function, uneven illumination, shot and read noise, unlabelled specks.

Classes by kind and `n_classes`:
nuclei 2 (nucleus); beads 2 (bead) or 3 (bead, cell); cells 2 (any cell),
3 (collapsed, cardiomyocyte) or 4 (collapsed, cardiomyocyte, half-collapsed).
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage

from seg import config
from seg.data import exposure


@dataclasses.dataclass(frozen=True)
class _Form:
    """How one class of object looks; lengths in units of the diameter."""

    size: float = 1.0  # equivalent diameter
    spread: float = 0.2  # sigma of the log of the size
    aspect: tuple[float, float] = (1.0, 1.6)  # long side / short side
    power: float = 2.0  # of the superellipse; 2 = ellipse
    wobble: float = 0.06  # roughness of the outline
    bend: float = 0.1
    light: tuple[float, float] = (0.35, 1.0)  # brightness
    edge: float = 0.5  # brightness at the edge, share of the middle's
    grain: float = 0.15  # contrast of the texture
    grain_scale: float = 0.07  # its sigma
    holes: int = 0  # most dark spots (nucleoli)
    bands: float = 0.0  # contrast of the stripes across (sarcomeres)
    crumpled: float = 0.0  # share of the length that has lost its stripes


_NUCLEUS = _Form(holes=3)
_BEAD = _Form(
    spread=0.06, aspect=(1.0, 1.03), wobble=0.0, bend=0.0, grain=0.03,
    light=(0.5, 1.0), edge=0.4,
)  # fmt: skip
_CELL = _Form(
    size=2.2, aspect=(1.2, 2.4), wobble=0.12, bend=0.2, light=(0.16, 0.35),
    edge=0.6, grain=0.3, grain_scale=0.12,
)  # fmt: skip
_ROD = _Form(
    spread=0.15, aspect=(2.4, 3.8), power=2.8, wobble=0.05, bend=0.08,
    light=(0.4, 0.8), edge=0.65, grain=0.15, bands=0.35,
)  # fmt: skip
_HALF = dataclasses.replace(
    _ROD, size=0.85, aspect=(1.6, 2.3), wobble=0.09, crumpled=0.5
)
_COLLAPSED = _Form(
    size=0.65, aspect=(1.0, 1.4), wobble=0.12, light=(0.5, 1.0), edge=0.5,
    grain=0.5, grain_scale=0.05,
)  # fmt: skip
# (kind, n_classes) -> ((form, share of the objects, class), ...)
_SCENES = {
    ("nuclei", 2): ((_NUCLEUS, 1.0, 1),),
    ("beads", 2): ((_BEAD, 1.0, 1),),
    ("beads", 3): ((_BEAD, 0.7, 1), (_CELL, 0.3, 2)),
    ("cells", 2): ((_COLLAPSED, 0.3, 1), (_ROD, 0.5, 1), (_HALF, 0.2, 1)),
    ("cells", 3): ((_COLLAPSED, 0.4, 1), (_ROD, 0.6, 2)),
    ("cells", 4): ((_COLLAPSED, 0.3, 1), (_ROD, 0.45, 2), (_HALF, 0.25, 3)),
}
_ROUGH = 0.05  # grain of a crumpled end
_SWING = 2.5  # an outline's largest bump, in units of its wobble
_GAP_PX = 3  # between objects that were not placed to touch
_TRIES = 60  # places looked at for one object
_FULL = 12  # objects in a row that found no place


def draw(spec: config.Synthetic, index: int) -> dict[str, np.ndarray]:
    """Draws the image of this index.

    Parameters
    ----------
    spec : what to draw; see `config.Synthetic`.
    index : any number >= 0, the image's place in the data set.

    Returns
    -------
    `image` [H, W, 1] uint16 (nuclei) or uint8 (cells, beads), `classes`
    [H, W] uint8 and `labels` [H, W] int32, 1 .. n without holes. Fewer than
    `spec.n_objects` where the image is full.

    Raises
    ------
    ConfigError : the kind has no scene with that many classes.
    """
    scene = _SCENES.get((spec.kind, spec.n_classes))
    if scene is None:
        counts = [n for kind, n in _SCENES if kind == spec.kind]
        raise config.ConfigError(
            f"synthetic.n_classes={spec.n_classes} with synthetic.kind="
            f"{spec.kind}; choose one of {', '.join(map(str, counts))}"
        )
    rng = np.random.default_rng([spec.seed, index])
    canvas = _Canvas([form for form, _, _ in scene], spec, rng)
    shares = [share for _, share, _ in scene]
    n_against = round(spec.touching * spec.n_objects)
    for place, n_bodies in (
        (canvas.free, spec.n_objects - n_against),
        (canvas.against, n_against),
    ):
        n_refused = 0
        for _ in range(n_bodies):
            form, _, class_id = scene[rng.choice(len(scene), p=shares)]
            body = _Body(form, spec, canvas.grain, rng)
            if (corner := place(body)) is not None:
                canvas.put(body, corner, class_id)
                n_refused = 0
            elif (n_refused := n_refused + 1) == _FULL:
                break
    labels, classes, light = canvas.cropped()
    exposed = exposure.expose(spec.contrast * light, spec, rng)
    top, dtype = (
        (65535, np.uint16) if spec.kind == "nuclei" else (255, np.uint8)
    )
    image = np.rint(np.clip(exposed, 0, 1) * top).astype(dtype)
    return {"image": image[..., None], "classes": classes, "labels": labels}


def _reach(form: _Form, spec: config.Synthetic) -> int:
    """Half a side of the square that holds any body of this form, px."""
    longest = math.sqrt(form.aspect[1]) * form.size * math.exp(2 * form.spread)
    return math.ceil(0.5 * spec.diameter * longest * _stretch(form)) + 8


def _stretch(form: _Form) -> float:
    """How far a body may reach beyond its half axis, a factor."""
    return 1.05 + _SWING * form.wobble + form.bend


class _Body:
    """One object: a square of light and its mask, centred."""

    def __init__(self, form, spec, grain, rng):
        spread = np.clip(rng.normal(), -2, 2) * form.spread
        self.diameter = spec.diameter * form.size * math.exp(spread)
        aspect = rng.uniform(*form.aspect)
        # a superellipse fills more of its box than an ellipse does
        fill = math.gamma(1 + 1 / form.power) ** 2 / math.gamma(
            1 + 2 / form.power
        )
        half = 0.5 * self.diameter * math.sqrt(math.pi / 4 / fill)
        long, short = half * math.sqrt(aspect), half / math.sqrt(aspect)
        self.reach = math.ceil(long * _stretch(form)) + _GAP_PX + 1
        along, rho = _outline(form, self.reach, (long, short), rng)
        self.mask = rho <= 1
        self.grown = rho <= 1 + _GAP_PX / short
        self.light = _glow(form, spec, grain, along * long, rho, rng)
        self.light *= self.mask
        if rng.random() < 0.2:  # out of focus: soft and dim
            sigma = rng.uniform(0.03, 0.09) * self.diameter
            self.light = 0.8 * ndimage.gaussian_filter(self.light, sigma)


def _outline(form, reach, axes, rng):
    """(place along the long axis, radius with 1 at the edge), both [S, S]."""
    angle, middle = rng.uniform(0, 2 * math.pi), rng.random(2, np.float32) - 0.5
    span = np.arange(-reach, reach + 1, dtype=np.float32)
    row, col = span[:, None] - middle[0], span[None] - middle[1]
    u = (math.cos(angle) * col + math.sin(angle) * row) / axes[0]
    v = (math.cos(angle) * row - math.sin(angle) * col) / axes[1]
    v += rng.normal() * form.bend * (u**2 - 0.4)
    radius = (abs(u) ** form.power + abs(v) ** form.power) ** (1 / form.power)
    theta, wobble = np.arctan2(v, u), np.ones_like(u)
    for k in range(2, 6) if form.wobble else ():
        size = float(np.clip(rng.normal(), -1.5, 1.5)) * form.wobble * 2 / k
        wobble += size * np.cos(k * theta + rng.uniform(0, 2 * math.pi))
    return u, radius / np.minimum(wobble, 1 + _SWING * form.wobble)


def _glow(form, spec, grain, along_px, rho, rng):
    """The light of a body [S, S], before its mask cuts it."""
    dome = np.sqrt(np.clip(1 - rho**2, 0, 1))
    noise = _patch(grain[form.grain_scale], rho.shape, rng)
    texture = 1 + form.grain * noise
    if form.bands:
        period = max(spec.diameter / 12, 3.5)
        phase = 2 * math.pi * along_px / period + 0.6 * noise
        bands = 1 + form.bands * np.cos(phase)
        if form.crumpled:
            end = (form.crumpled - 0.5) * 2 - along_px / abs(along_px).max()
            crumpled = 1 / (1 + np.exp(-12 * end))
            rough = 1.15 + 0.5 * _patch(grain[_ROUGH], rho.shape, rng)
            bands = (1 - crumpled) * bands + crumpled * rough
        texture *= bands
    for _ in range(rng.integers(form.holes + 1) if form.holes else 0):
        at = (rng.random(2, np.float32) - 0.5) * 0.42 * rho.shape[0]
        sigma = rng.uniform(0.06, 0.1) * spec.diameter
        span = np.arange(rho.shape[0], dtype=np.float32) - rho.shape[0] // 2
        row, col = np.exp(-((span - at[:, None]) ** 2) / (2 * sigma**2))
        texture -= rng.uniform(0.2, 0.5) * np.outer(row, col)
    light = rng.uniform(*form.light)
    light *= form.edge + (1 - form.edge) * dome
    return light * np.clip(texture, 0.1, 2)


def _patch(field, shape, rng):
    """A random window of a periodic field."""
    row, col = rng.integers(field.shape[0], size=2)
    rows = np.arange(row, row + shape[0]) % field.shape[0]
    cols = np.arange(col, col + shape[1]) % field.shape[1]
    return field[np.ix_(rows, cols)]


class _Canvas:
    """Labels and light of the image with a rim, so that bodies may be cut."""

    def __init__(self, forms, spec, rng):
        self.shape, self.rng = (spec.height, spec.width), rng
        self.rim = max(_reach(form, spec) for form in forms)
        full = tuple(n + 2 * self.rim for n in self.shape)
        self.labels = np.zeros(full, np.int32)
        self.light = np.zeros(full, np.float32)
        self.placed, self.classes = [], [0]
        scales = {form.grain_scale for form in forms} | {_ROUGH}
        self.grain = {
            scale: exposure.field(256, max(scale * spec.diameter, 0.7), rng)
            for scale in sorted(scales)
        }

    def _window(self, corner, body):
        side = 2 * body.reach + 1
        return tuple(slice(at, at + side) for at in corner)

    def _visible(self, corner, mask):
        """The part of a mask that lies within the image."""
        inside = np.zeros_like(mask)
        spans = [
            slice(max(self.rim - at, 0), max(self.rim + n - at, 0))
            for at, n in zip(corner, self.shape, strict=True)
        ]
        inside[tuple(spans)] = True
        return mask & inside

    def _corner(self, middle, body):
        """The window's corner for a middle in image coordinates, or None."""
        if not all(0 <= m < n for m, n in zip(middle, self.shape, strict=True)):
            return None
        return tuple(round(m) + self.rim - body.reach for m in middle)

    def free(self, body):
        """A corner where the body keeps clear of all others, or None."""
        for _ in range(_TRIES):
            corner = self._corner(
                self.rng.uniform(0, np.array(self.shape) - 0.5), body
            )
            there = self.labels[self._window(corner, body)]
            if not (there[body.grown] > 0).any():
                return corner
        return None

    def against(self, body):
        """A corner where the body meets another and shares little, or None."""
        bite = 0.06 * body.diameter
        for _ in range(_TRIES if self.placed else 0):
            middle, reach = self.placed[self.rng.integers(len(self.placed))]
            angle = self.rng.uniform(0, 2 * math.pi)
            way = np.array([math.sin(angle), math.cos(angle)])
            for distance in range(reach + body.reach, 0, -1):
                corner = self._corner(middle + distance * way, body)
                if corner is None:
                    continue
                there = self.labels[self._window(corner, body)]
                if (there[body.mask] > 0).any():
                    break
            else:
                continue
            corner = self._corner(middle + (distance - bite) * way, body)
            if corner is None:
                continue
            there = self.labels[self._window(corner, body)]
            if (there[body.mask] > 0).mean() < 0.1:
                return corner
        return self.free(body)

    def put(self, body, corner, class_id):
        """Draws the body, less what others already have."""
        window = self._window(corner, body)
        there = self.labels[window]
        mask = body.mask & (there == 0)
        seen = self._visible(corner, mask)
        parts, n_parts = ndimage.label(seen)
        if n_parts == 0 or seen.sum() < 0.15 * body.mask.sum():
            return
        if n_parts > 1:  # what the contact cut off goes
            seen = parts == 1 + np.argmax(np.bincount(parts.flat)[1:])
            mask &= seen | ~self._visible(corner, mask)
        self.classes.append(class_id)
        there[mask] = len(self.classes) - 1
        self.light[window] = np.maximum(self.light[window], body.light)
        middle = np.array(corner) + body.reach - self.rim
        self.placed.append((middle, body.reach))

    def cropped(self):
        """(labels, classes, light) of the image without its rim."""
        inner = tuple(slice(self.rim, self.rim + n) for n in self.shape)
        labels = self.labels[inner].copy()
        classes = np.array(self.classes, np.uint8)[labels]
        return labels, classes, self.light[inner]
