"""Costs against what the sources published, and against a layer by hand."""

import pytest

from seg import config
from seg.models import cost


@pytest.mark.parametrize(
    ("name", "in_channels", "n_classes", "side", "gmac"),
    [
        ("unet_small", 3, 1, 128, 0.76),
        ("segnet", 1, 4, 512, 159.7),
        ("xception_unet", 1, 4, 512, 53.4),
    ],
)
def test_multiply_adds_are_those_of_the_sources(
    name, in_channels, n_classes, side, gmac
):
    model = config.Model(
        name=name, in_channels=in_channels, n_classes=n_classes
    )
    found = cost.multiply_adds(model, side, side) / 1e9
    assert found == pytest.approx(gmac, rel=0.01)


def test_a_unet_of_two_levels_by_hand():
    model = config.Model(name="unet_small", width=4, depth=1, in_channels=2)
    high = 16 * 24 * (9 * 4 * (2 + 4) + 9 * 4 * (8 + 4) + 4)
    low = 8 * 12 * (9 * 8 * (4 + 8) + 4 * 8 * 4)
    assert cost.multiply_adds(model, 16, 24) == high + low
