"""Shapes become the pixels whose middles are inside."""

import time

import numpy as np
import pytest
from skimage import draw

from seg.data import shapes

SHAPE = (60, 80)


def filled(region, shape=SHAPE):
    mask = np.zeros(shape, bool)
    rows, cols = region.inside.shape
    box = np.s_[region.row : region.row + rows, region.col : region.col + cols]
    mask[box] = region.inside
    return mask


def star(rng, n):
    """A polygon around (40, 30) that does not cross itself: points (x, y)."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    radius = rng.uniform(4, 28, n)
    return np.stack(
        [40 + radius * np.cos(angle), 30 + radius * np.sin(angle)], -1
    )


@pytest.mark.parametrize("grid", [0, 1, 2, 4])
def test_a_polygon_is_that_of_skimage_half_a_pixel_on(grid):
    """Also with corners and sides through middles, which are then inside."""
    rng = np.random.default_rng(grid)
    n_compared = 0
    for _ in range(40):
        points = star(rng, int(rng.integers(3, 40)))
        points = np.round(points * grid) / grid if grid else points
        try:
            found = filled(shapes.polygon(points, SHAPE))
        except shapes.ShapeError:  # rounding made its sides cross
            continue
        expected = draw.polygon2mask(SHAPE, points[:, ::-1] - 0.5)
        np.testing.assert_array_equal(found, expected)
        n_compared += 1
    assert n_compared > 20


def odd_crossings(rings, shape):
    """Pixels whose middles have an odd number of sides to their left."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    left = np.zeros(shape, int)
    for ring in rings:
        for a, b in zip(ring, np.roll(ring, -1, 0), strict=True):
            (x0, y0), (x1, y1) = sorted((a, b), key=lambda point: point[1])
            # in whole numbers: x0 + (y - y0) (x1 - x0) / (y1 - y0) < x
            crossed = (2 * y0 < 2 * row + 1) & (2 * row + 1 < 2 * y1)
            x = (2 * col + 1 - 2 * x0) * (y1 - y0)
            left += crossed & ((2 * row + 1 - 2 * y0) * (x1 - x0) < x)
    return left % 2 == 1


@pytest.mark.parametrize("n_rings", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_imagejs_rule_is_an_odd_number_of_sides_to_the_left(seed, n_rings):
    """However sides cross, and over the border; right edges count."""
    rng = np.random.default_rng(seed)
    rings = [
        rng.integers(-9, 89, (int(rng.integers(3, 30)), 2))
        for _ in range(n_rings)
    ]
    found = shapes.filled_by_imagej([r.astype(float) for r in rings], SHAPE)
    expected = odd_crossings(rings, SHAPE)
    np.testing.assert_array_equal(filled(found), expected)


def test_an_outline_of_thousands_of_points_takes_no_time():
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    points = 500 + 450 * np.stack([np.cos(angle), np.sin(angle)], -1)
    started = time.perf_counter()
    region = shapes.polygon(points, (1000, 1000))
    assert time.perf_counter() - started < 3  # a minute, pixel by pixel
    assert region.inside.sum() == pytest.approx(np.pi * 450**2, rel=1e-4)


def test_a_polygon_over_the_border_is_cut_off():
    points = np.array([[-1.0, -1], [81, -1], [81, 61], [-1, 61]])
    assert filled(shapes.polygon(points, SHAPE)).all()
    beside = np.array([[-1.0, 5], [0, 5], [0, 9]])
    assert not filled(shapes.polygon(beside, SHAPE)).any()


def test_a_rectangle_covers_the_pixels_between_its_corners():
    corners = np.array([[30.0, 12.0], [10.0, 40.0]])
    expected = np.zeros(SHAPE, bool)
    expected[12:40, 10:30] = True
    for points in (corners, corners[::-1]):
        found = filled(shapes.rectangle(points, SHAPE))
        np.testing.assert_array_equal(found, expected)
    turned = np.array([[20.0, 2], [38, 20], [20, 38], [2, 20]])
    found = filled(shapes.rectangle(turned, SHAPE))
    assert abs(found.sum() - 18 * 18 * 2) <= 40  # half of the square around


@pytest.mark.parametrize("radius", [3.0, 7.3, 12.5, 22.2])
def test_the_area_of_a_circle_is_pi_r_squared(radius):
    areas = []
    for dx, dy in np.random.default_rng(0).uniform(0, 1, (16, 2)):
        middle, on = np.array([40 + dx, 30 + dy]), np.array([0.6, 0.8])
        points = np.stack([middle, middle + radius * on])
        found = filled(shapes.circle(points, SHAPE))
        rows, cols = np.nonzero(found)
        distance = np.hypot(cols + 0.5 - middle[0], rows + 0.5 - middle[1])
        assert (
            distance.max() <= radius
            and found.sum()
            == (
                np.hypot(
                    np.arange(80)[None] + 0.5 - middle[0],
                    np.arange(60)[:, None] + 0.5 - middle[1],
                )
                <= radius
            ).sum()
        )
        areas.append(found.sum())
    assert np.mean(areas) == pytest.approx(np.pi * radius**2, rel=0.02)


def test_a_circle_over_the_border_and_a_point_are_cut_off():
    points = np.array([[2.0, 2.0], [12.0, 2.0]])
    found = filled(shapes.circle(points, SHAPE))
    assert found[0, 0] and found.sum() < np.pi * 100 * 0.5
    dot = filled(shapes.dots(np.array([[40.5, 30.5], [79.0, 59.0]]), SHAPE))
    assert dot[30, 40] and dot[30, 45] and not dot[30, 46]
    points[1] = 1.7e308
    assert filled(shapes.circle(points, SHAPE)).all()
    assert dot[59, 79] and dot[30].sum() == 2 * shapes.DISC + 1


def test_a_keyhole_has_a_hole():
    outer = [(10, 10), (50, 10), (50, 50), (10, 50), (10, 10)]
    inner = [(20, 20), (20, 40), (40, 40), (40, 20), (20, 20)]
    points = np.array(outer + inner, float)
    found = filled(shapes.polygon(points, SHAPE))
    assert not found[30, 30] and found[30, 15] and found[45, 30]
    assert found[25:35, 25:35].sum() == 0


def test_a_mask_is_pasted_where_it_was():
    mask = np.array([[0, 1, 1], [1, 1, 0]])
    corners = np.array([[77.0, 58], [79, 59]])
    found = filled(shapes.pasted(mask, corners, SHAPE))
    np.testing.assert_array_equal(found[58:, 77:], mask)
    assert found.sum() == 4


def test_a_union_has_all_pixels_of_its_parts():
    parts = [
        shapes.rectangle(np.array([[x, y], [x + 9.0, y + 7.0]]), SHAPE)
        for x, y in ((3, 4), (8, 6), (60, 40))
    ]
    expected = np.any([filled(part) for part in parts], axis=0)
    np.testing.assert_array_equal(filled(shapes.union(parts)), expected)
    empty = shapes.Region(0, 0, np.zeros((0, 0), bool))
    assert shapes.union([empty]).inside.size == 0
    assert shapes.union([empty, parts[2]]).row == parts[2].row


@pytest.mark.parametrize(
    ("draw_it", "points", "what"),
    [
        (shapes.polygon, [(1, 1), (5, 5)], "of 2 points"),
        (shapes.polygon, [(1, 1), (9, 9), (9, 1), (1, 9)], "crosses itself"),
        (shapes.polygon, [(1, 1), (90, 9), (9, 1)], "x=90, y=9, outside"),
        (shapes.polygon, [(1, 1), (9, -3), (9, 1)], "outside the image"),
        (shapes.rectangle, [(1, 1), (2, 2), (3, 3)], "rectangle of 3 points"),
        (shapes.circle, [(1, 1)], "a circle of 1 points"),
        (shapes.circle, [(900, 1), (1, 1)], "outside the image"),
        (shapes.dots, [(-9, 1)], "outside the image"),
        (shapes.dots, np.zeros((0, 2)), "no points"),
        (shapes.line, [(1, 1), (5, 5)], "no area"),
    ],
)
def test_what_is_no_shape_is_refused_with_a_remedy(draw_it, points, what):
    with pytest.raises(shapes.ShapeError, match=what) as caught:
        draw_it(np.array(points, float), SHAPE)
    assert ";" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("points", "what"),
    [
        ([[1, 1], [3, 3]], "2x3 px in a box of 3x3"),
        ([[78, 58], [80, 59]], "outside the image"),
        ([[1, 1], [1e300, 3]], "outside the image"),
        ([[1, 1]], "without the two corners"),
        ([[1.5, 1], [3.5, 2]], "without the two corners"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(points, what):
    with pytest.raises(shapes.ShapeError, match=what):
        shapes.pasted(np.ones((2, 3)), np.array(points, float), SHAPE)


@pytest.mark.parametrize("seed", range(10))
def test_crossing_sides_are_found(seed):
    """Against the test of all pairs of sides, by their parameters."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(5, 55, (int(rng.integers(4, 9)), 2))

    def meet(a, b, c, d):
        r, s = b - a, d - c
        turn = r[0] * s[1] - r[1] * s[0]
        t = ((c - a)[0] * s[1] - (c - a)[1] * s[0]) / turn
        u = ((c - a)[0] * r[1] - (c - a)[1] * r[0]) / turn
        return 1e-9 < t < 1 - 1e-9 and 1e-9 < u < 1 - 1e-9

    ends = np.roll(points, -1, axis=0)
    n = len(points)
    crossed = any(
        meet(points[i], ends[i], points[j], ends[j])
        for i in range(n)
        for j in range(i)
    )
    if crossed:
        with pytest.raises(shapes.ShapeError, match="crosses itself"):
            shapes.polygon(points, SHAPE)
    else:
        shapes.polygon(points, SHAPE)
