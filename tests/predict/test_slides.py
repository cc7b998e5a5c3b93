"""Objects found in strips are those of the whole image.

The oracle is `blobs.detect`; every claim is tried at several strip heights.
"""

import itertools
import logging

import numpy as np
import pytest
from scipy import ndimage

from seg import config
from seg.predict import blobs, slides, strips
from seg.predict.slides import separation

NAMES = ("background", "bead", "cell", "clot")
HEIGHTS = (1, 7, 16, 100)
SEPARATIONS = ("components", "watershed", "learned")


def _noise(random, shape, sigma, share):
    field = ndimage.gaussian_filter(random.normal(size=shape), sigma)
    return field > np.quantile(field, 1 - share)


def _spiral(random, shape):
    row, col = np.indices(shape) - np.array(shape)[:, None, None] / 2
    turns = np.hypot(row, col) / random.uniform(4, 9)
    return (turns - np.arctan2(row, col) / (2 * np.pi)) % 1 < 0.6


def _rings(random, shape):
    row, col = np.indices(shape) - np.array(shape)[:, None, None] / 2
    return np.hypot(row, col) % random.uniform(5, 9) < 3


def _combs(random, shape):
    """U shapes, both ways up."""
    mask = np.zeros(shape, bool)
    mask[2::9] = True
    mask[:, 1 :: int(random.integers(2, 7))] = True
    mask[5::9] = False
    return mask


def _discs(random, shape):
    """Touching discs."""
    seeds = random.random(shape) < 0.012
    return ndimage.distance_transform_edt(~seeds) < random.uniform(2, 6)


DRAWN = {
    "sparse noise": lambda r, s: _noise(r, s, 0, 0.2),
    "percolating noise": lambda r, s: _noise(r, s, 0, 0.6),
    "blobs": lambda r, s: _noise(r, s, 1.5, 0.4),
    "large blobs": lambda r, s: _noise(r, s, 3, 0.55),
    "spiral": _spiral,
    "rings": _rings,
    "combs": _combs,
    "discs": _discs,
    "empty": lambda r, s: np.zeros(s, bool),
    "full": lambda r, s: np.ones(s, bool),
}


def _classes(random, kind, shape, n_classes):
    classes = np.zeros(shape, np.uint8)
    for k in range(1, n_classes):
        classes[DRAWN[kind](random, shape) & (random.random() < 0.9)] = k
    return classes


def _probabilities(random, classes, n_classes):
    """Float32 [H, W, K] with these classes at threshold 0.5."""
    shape = classes.shape
    if n_classes == 2:
        low = random.random(shape) * 0.5
        return (low + 0.5 * classes)[:, :, None].clip(0, 0.9999)
    prob = random.random((*shape, n_classes)) * 0.5
    np.put_along_axis(prob, classes[:, :, None].astype(int), 0.7, 2)
    return prob.astype(np.float32)


def _apart(random, shape):
    """A map with several peaks in what is connected."""
    field = ndimage.gaussian_filter(random.normal(size=shape), 1.5)
    return ((field - field.min()) / max(np.ptp(field), 1e-9)).astype("f4")


def _on_slide(folder, prob, image, predict, names, height, apart=None, **more):
    raw = blobs.classes_from(prob, predict.threshold)
    classes = strips.Strips(folder, "classes", raw.shape, np.uint8, height)
    for i in range(len(classes)):
        classes.put(i, raw[slice(*classes.span(i))])
    return slides.detect(
        classes,
        lambda top, bottom: prob[top:bottom],
        None if image is None else lambda top, bottom: image[top:bottom],
        predict,
        names,
        folder,
        apart=lambda top, bottom: apart[top:bottom],
        **more,
    )


def _assert_same(found, whole):
    labels = np.concatenate(list(found.labels()))
    assert labels.dtype == whole.labels.dtype
    np.testing.assert_array_equal(labels, whole.labels)
    classes = np.concatenate(list(found.classes()))
    assert classes.dtype == whole.classes.dtype
    np.testing.assert_array_equal(classes, whole.classes)
    rows = list(found.rows())
    assert found.n_objects == len(rows) == len(whole.table)
    for row, expected in zip(rows, whole.table, strict=True):
        assert list(row) == list(expected)
        for name, value in expected.items():
            assert type(row[name]) is type(value)
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, 1e-9, 0, True), name
            else:
                assert row[name] == value, name


def _knobs(random, n_classes):
    def values(*choices):
        n = random.choice([1, n_classes - 1])
        return tuple(int(random.choice(choices)) for _ in range(n))

    return config.Predict(
        closing=int(random.choice([0, 0, 2, 3, 6])),
        separate=str(random.choice(SEPARATIONS)),
        prominence=float(random.choice([0, 0.05, 0.3])),
        connectivity=int(random.choice([1, 2])),
        watershed_sigma=float(random.choice([0, 1, 2])),
        watershed_distance=int(random.choice([1, 2, 5])),
        gap=int(random.choice([0, 0, 1, 2, 4])),
        min_area=values(0, 1, 4, 20),
        fill_holes=bool(random.choice([False, True])),
        min_probability=float(random.choice([0, 0.7, 0.76])),
        drop_border=bool(random.choice([False, True])),
        margin=values(0, 1, 3),
    )


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("seed", range(4))
def test_any_image_with_any_knobs(tmp_path, monkeypatch, kind, seed):
    random = np.random.default_rng((seed, *kind.encode()))
    monkeypatch.setattr(separation, "_BLOCK", int(random.integers(5, 60)))
    shape = tuple(random.integers(20, 50, 2))
    n_classes = int(random.integers(2, 5))
    classes = _classes(random, kind, shape, n_classes)
    prob = _probabilities(random, classes, n_classes)
    image = random.integers(0, 60000, (*shape, random.integers(1, 4)))
    image = None if seed == 0 else image.astype(np.uint16)
    predict, names = _knobs(random, n_classes), NAMES[:n_classes]
    apart = _apart(random, shape)
    whole = blobs.detect(prob, image, predict, names, apart)
    for height in (HEIGHTS[seed], int(random.integers(2, 25))):
        folder = tmp_path / str(height)
        found = _on_slide(folder, prob, image, predict, names, height, apart)
        _assert_same(found, whole)


EVERY = [
    {"separate": separate, "connectivity": connectivity, **more}
    for separate, connectivity, more in itertools.product(
        SEPARATIONS,
        (1, 2),
        (
            {},
            {"gap": 2},
            {"fill_holes": True},
            {"closing": 3, "gap": 1, "fill_holes": True, "min_area": (9,)},
            {"drop_border": True},
            {"min_probability": 0.85, "calibration": (1.5, 0.1)},
        ),
    )
]


@pytest.mark.parametrize("knobs", EVERY, ids=str)
def test_every_stage_on_touching_discs(tmp_path, knobs):
    random = np.random.default_rng(1)
    classes = _discs(random, (60, 50)).astype(np.uint8)
    classes[random.random(classes.shape) < 0.05] = 0
    prob = _probabilities(random, classes, 2)
    apart = _apart(random, classes.shape)
    predict = config.Predict(**knobs)
    whole = blobs.detect(prob, None, predict, NAMES[:2], apart)
    assert knobs.get("drop_border") or len(whole.table) > 3
    for height in (2, 11):
        folder = tmp_path / str(height)
        found = _on_slide(folder, prob, None, predict, NAMES[:2], height, apart)
        _assert_same(found, whole)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("separate", SEPARATIONS)
def test_the_smallest_slides(tmp_path, shape, separate):
    random = np.random.default_rng(2)
    predict = config.Predict(
        separate=separate, gap=2, closing=2, fill_holes=True
    )
    for i, share in enumerate((0, 0.5, 1)):
        classes = (random.random(shape) < share).astype(np.uint8)
        prob = _probabilities(random, classes, 2)
        apart = _apart(random, shape)
        whole = blobs.detect(prob, None, predict, NAMES[:2], apart)
        folder = tmp_path / str(i)
        found = _on_slide(folder, prob, None, predict, NAMES[:2], 1, apart)
        _assert_same(found, whole)


def test_a_giant_stays_whole_and_is_told_once(tmp_path, monkeypatch, caplog):
    classes = np.zeros((40, 60), np.uint8)
    classes[2:38, 20:29] = classes[2:38, 31:40] = 1  # two bars and a bridge
    classes[20, 20:40] = 1
    classes[5:14, 2:11] = classes[5:14, 10:19] = 1  # touching squares
    classes[9, 9:12] = 1
    prob = _probabilities(np.random.default_rng(3), classes, 2)
    predict = config.Predict(separate="watershed", watershed_sigma=1)
    cut = len(blobs.detect(prob, None, predict, NAMES[:2]).table)
    small = classes.copy()
    small[:, 20:] = 0
    small_cut = len(
        blobs.detect(prob * small[:, :, None], None, predict, NAMES[:2]).table
    )
    assert cut > small_cut + 1
    for limit, n_objects in ((36 * 20, cut), (36 * 20 - 1, small_cut + 1)):
        monkeypatch.setattr(separation, "LARGEST_CUT", limit)
        for height in HEIGHTS:
            caplog.clear()
            folder = tmp_path / f"{limit} {height}"
            with caplog.at_level(logging.WARNING):
                found = _on_slide(
                    folder, prob, None, predict, NAMES[:2], height
                )
            assert found.n_objects == n_objects
            assert len(caplog.records) == (limit < 36 * 20)


def test_on_strip_is_called_and_may_stop_the_work(tmp_path):
    class Stop(Exception):
        pass

    prob = _probabilities(
        np.random.default_rng(4), np.ones((30, 8), np.uint8), 2
    )
    calls = []
    _on_slide(
        tmp_path / "a",
        prob,
        None,
        config.Predict(),
        NAMES[:2],
        10,
        on_strip=lambda: calls.append(1),
    )
    assert len(calls) == 2 * 3  # one pass labels, one measures

    def stop():
        calls.pop()
        if not calls:
            raise Stop

    with pytest.raises(Stop):
        _on_slide(
            tmp_path / "b",
            prob,
            None,
            config.Predict(),
            NAMES[:2],
            10,
            on_strip=stop,
        )


def test_scratch_goes_and_rows_stay(tmp_path):
    random = np.random.default_rng(5)
    classes = _classes(random, "blobs", (40, 40), 4)
    prob = _probabilities(random, classes, 4)
    predict = config.Predict(gap=1, fill_holes=True, separate="watershed")
    found = _on_slide(tmp_path, prob, None, predict, NAMES, 9)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"classes", "objects"}
    found.remove()
    assert {path.name for path in tmp_path.iterdir()} == {"classes"}
    assert len(list(found.rows())) == found.n_objects > 0


@pytest.mark.parametrize(
    ("names", "knobs", "message"),
    [
        (NAMES[:3], {}, "3 names"),
        (NAMES[:2], {"min_area": (1, 2)}, "min_area"),
        (NAMES[:2], {"margin": (1, 2)}, "margin"),
    ],
)
def test_what_does_not_fit_is_told_at_once(tmp_path, names, knobs, message):
    prob = np.zeros((4, 4, 1), np.float32)
    predict = config.Predict(**knobs)
    with pytest.raises(config.ConfigError, match=message):
        _on_slide(tmp_path, prob, None, predict, names, 2)
