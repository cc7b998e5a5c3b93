import numpy as np
import pytest
from scipy import ndimage

from seg.data import siblings


def field(seed, shape=(128, 192), dtype=np.uint8, objects=True, noise=2.0):
    """A fluorescence field: blurred discs on a dim background with noise."""
    rng = np.random.default_rng(seed)
    light = np.zeros(shape)
    if objects:
        rows, cols = rng.integers(0, shape, (90, 2)).T
        light[rows, cols] = rng.uniform(0.5, 1, 90)
        light = ndimage.gaussian_filter(light, 5)
        light = 160 * light / light.max()
    image = 12 + light + rng.normal(0, noise, shape)
    scale = np.iinfo(dtype).max / 255
    return (np.clip(image, 0, 255) * scale).astype(dtype)[..., None]


def tiles(image, rows, cols):
    height, width = image.shape[0] // rows, image.shape[1] // cols
    return [
        image[r * height : (r + 1) * height, c * width : (c + 1) * width]
        for r in range(rows)
        for c in range(cols)
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiles_of_a_field_are_one_group_and_fields_are_not(dtype):
    images = {
        f"{f}-{i}": tile
        for f in range(6)
        for i, tile in enumerate(tiles(field(f, dtype=dtype), 2, 3))
    }
    shuffled = sorted(images.items(), key=lambda item: hash(item[0]))
    groups = siblings.groups(shuffled)
    assert groups.keys() == images.keys()
    whole = [{groups[f"{f}-{i}"] for i in range(6)} for f in range(6)]
    assert all(len(of_field) == 1 for of_field in whole)
    assert len(set.union(*whole)) == 6


def test_empty_background_joins_nothing():
    images = [(str(i), field(i, (64, 64), objects=False)) for i in range(20)]
    assert len(set(siblings.groups(images).values())) == 20
    flat = [(str(i), np.full((8, 8, 1), i, np.uint8)) for i in range(5)]
    assert len(set(siblings.groups(flat).values())) == 5


def test_equal_images_are_one_group():
    images = [("a", field(0)), ("b", field(1)), ("c", field(0))]
    groups = siblings.groups(images)
    assert groups["a"] == groups["c"] != groups["b"]


def test_the_family_is_the_stratum():
    grey, deep = field(0), field(0, dtype=np.uint16)
    colour = np.dstack([grey, grey // 2, grey // 3])
    groups = siblings.groups(
        [
            ("grey", grey),
            ("as colour", np.repeat(grey, 3, -1)),
            ("colour", colour),
            ("bright", 255 - field(3)),
            ("float", field(4).astype(np.float32) / 255),
            ("channels", np.repeat(field(5), 5, -1)),
        ]
    )
    family = {name: group.rpartition("/")[0] for name, group in groups.items()}
    assert family["grey"] == family["as colour"] == "128x192-grey-dark3"
    assert "colour" in family["colour"] and "bright" in family["bright"]
    assert siblings.groups([("deep", deep)])["deep"].startswith(family["grey"])


def test_names_do_not_depend_on_the_order():
    images = [(str(i), tile) for i, tile in enumerate(tiles(field(0), 2, 2))]
    images += [(f"x{i}", field(i, (64, 96))) for i in range(1, 5)]
    assert siblings.groups(images) == siblings.groups(images[::-1])
