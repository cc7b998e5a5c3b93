"""Files of microscopes; CZI is written by pylibCZIrw, of the same makers.

pip install -e .[formats] pylibCZIrw, or its tests are skipped.
"""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from seg import config, images
from seg.images import about, read, slide, vendors
from tests.images import microscopes

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 65536, (2, 3, 2, 40, 36), np.uint16)  # T Z C Y X


@pytest.fixture
def czi():
    """write(path, [H, W, 1 or 3] by plane, **metadata)."""
    pytest.importorskip("bioio_czi")
    library = pytest.importorskip("pylibCZIrw.czi")

    def write(path, planes, **about_it):
        with library.create_czi(str(path)) as file:
            for place, pixels in planes:
                scene = place.pop("scene", None)
                more = {} if scene is None else {"scene": scene}
                if scene:
                    more["location"] = (1000 * scene, 0)
                file.write(pixels, plane=place, **more)
            if about_it:
                file.write_metadata("x", **about_it)
        return path

    return write


def planes():
    for t, z, c in np.ndindex(STACK.shape[:3]):
        yield {"T": t, "Z": z, "C": c}, STACK[t, z, c][..., None]


def test_a_czi_is_read_plane_by_plane(tmp_path, czi):
    path = czi(
        tmp_path / "a.czi", planes(), channel_names={0: "DAPI", 1: "GFP"},
        scale_x=0.325e-6, scale_y=0.65e-6,
    )  # fmt: skip
    said = about.read_about(path)
    assert said.shape == (40, 36) and said.channels == ("DAPI", "GFP")
    assert said.pixel_size == pytest.approx((0.65, 0.325))
    assert not said.by_strips
    assert len(said.planes("a")) == 6
    for select, expected in {
        "T=1,Z=2": STACK[1, 2].transpose(1, 2, 0),
        "T=0,Z=1,C=1": STACK[0, 1, 1][..., None],
        "T=0,Z=max,C=1+0": STACK[0].max(0)[::-1].transpose(1, 2, 0),
    }.items():
        np.testing.assert_array_equal(
            read.read_image(path, select=select), expected
        )
        with slide.open_slide(path, select=select) as opened:
            np.testing.assert_array_equal(opened.rows(5, 40), expected[5:])
    with pytest.raises(images.ImageError, match="a stack of 2 points in time"):
        read.read_image(path)


def test_colours_of_a_czi_are_red_green_blue(tmp_path, czi):
    colour = RNG.integers(0, 256, (40, 36, 3), np.uint8)
    # which takes them as blue, green, red
    path = czi(tmp_path / "a.czi", [({"C": 0}, colour[..., ::-1].copy())])
    assert about.read_about(path).pixel_size is None
    np.testing.assert_array_equal(read.read_image(path), colour)
    np.testing.assert_array_equal(
        read.read_image(path, select="S=1")[..., 0], colour[..., 1]
    )


def test_a_broken_czi_is_one_line(tmp_path, czi):
    path = czi(tmp_path / "a.czi", planes())
    content = path.read_bytes()
    for bad in (content[:200], b"hello", content[:-3000]):
        path.write_bytes(bad)
        with pytest.raises(images.ImageError) as caught:
            read.read_image(path, select="T=1,Z=2")
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


SERIES = STACK, STACK[..., :30, :20] // 2  # as LIF has them


def nd2(path, axes, pixels, channels=("DAPI", "GFP")):
    pytest.importorskip("bioio_nd2")
    return microscopes.write_nd2(path, pixels, axes, channels, 0.325)


def lif(path, *series, channels=("Blue", "Green"), **more):
    pytest.importorskip("bioio_lif")
    named = {f"series {i}": pixels for i, pixels in enumerate(series)}
    return microscopes.write_lif(path, named, channels, 0.325, **more)


@pytest.mark.parametrize(
    ("axes", "select", "place"),
    [
        ("PTZ", "P=1,T=1,Z=2", (1, 1, 2)),
        ("TZ", "T=1,Z=0", (1, 0)),
        ("PZ", "P=1,Z=2", (1, 2)),
        ("T", "T=1", (1,)),
        ("", "", ()),
    ],
)
def test_an_nd2_is_read_plane_by_plane(tmp_path, axes, select, place):
    lengths = {"P": 2, "T": 2, "Z": 3}
    shape = [lengths[axis] for axis in axes]
    pixels = RNG.integers(0, 65536, (*shape, 40, 36, 2), np.uint16)
    path = nd2(tmp_path / "a.nd2", axes, pixels)
    said = about.read_about(path)
    assert said.shape == (40, 36) and said.channels == ("DAPI", "GFP")
    assert said.pixel_size == pytest.approx((0.325, 0.325))
    assert len(said.planes("a")) == np.prod(shape)
    np.testing.assert_array_equal(
        read.read_image(path, select=select), pixels[place]
    )
    one = f"{select},C=1".lstrip(",")
    np.testing.assert_array_equal(
        read.read_image(path, select=one), pixels[place][..., 1:]
    )
    if axes == "PTZ":
        np.testing.assert_array_equal(
            read.read_image(path, select="P=0,T=1,Z=max"), pixels[0, 1].max(0)
        )


def test_colours_of_an_nd2_come_as_they_are_stored(tmp_path):
    colour = RNG.integers(0, 256, (40, 36, 3), np.uint8)
    path = nd2(tmp_path / "a.nd2", "", colour, ("Brightfield",))
    np.testing.assert_array_equal(read.read_image(path), colour)


def test_a_lif_is_read_series_by_series(tmp_path):
    path = lif(tmp_path / "a.lif", *SERIES)
    said = about.read_about(path)
    assert said.shape == (40, 36) and said.channels == ("Blue", "Green")
    assert said.pixel_size == pytest.approx((0.325, 0.325))
    assert len(said.planes("a")) == 2 * 2 * 3
    for series, pixels in enumerate(SERIES):
        for select, expected in {
            "T=1,Z=2": pixels[1, 2],
            "T=0,Z=mean,C=1": pixels[0, :, 1:].mean(0),
        }.items():
            np.testing.assert_allclose(
                read.read_image(path, select=f"P={series},{select}"),
                expected.transpose(1, 2, 0),
                atol=0.5,
            )


@pytest.mark.parametrize(
    ("series", "more", "said"),
    [
        ((STACK, STACK[:1]), {}, "its 2 scenes have not the same planes"),
        (
            (STACK[:1, :1].transpose(0, 1, 3, 4, 2),), {"axes": "TZYXC"},
            "series 0 is in colours, which bioio-lif does not read; save it as",
        ),
    ],
)  # fmt: skip
def test_what_is_not_read_of_a_lif_is_said(tmp_path, series, more, said):
    path = lif(tmp_path / "a.lif", *series, **more)
    with pytest.raises(images.ImageError, match=f"{path}: {said}"):
        read.read_image(path)


@pytest.mark.parametrize("kind", ["lif", "nd2"])
def test_a_broken_lif_or_nd2_is_one_line(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "lif":
        lif(path, STACK)
    else:
        nd2(path, "TZ", STACK.transpose(0, 1, 3, 4, 2))
    content = path.read_bytes()
    for bad in (b"", b"hello", content[:200], content[:-3000]):
        path.write_bytes(bad)
        with pytest.raises(images.ImageError) as caught:
            read.read_image(path, select="T=1,Z=2")
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", vendors.SUFFIXES)
def test_without_bioio_the_remedy_is_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"whatever it is")
    script = """
import sys
sys.modules["bioio"] = None
from seg import config
from seg.images import about, read, slide
path = sys.argv[1]
assert not slide.is_slide(path)
for reader in (read.read_image, about.read_about, slide.open_slide):
    try:
        reader(path)
    except config.UserError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith(f"{path}: {suffix[1:].upper()} needs bioio")
        assert "pip install -e .[formats]" in line


def test_bytes_and_other_names_are_no_vendors(tmp_path):
    assert not vendors.is_vendor(b"a.czi")
    assert not vendors.is_vendor(tmp_path / "absent.czi")
    assert not vendors.is_vendor(pathlib.Path(__file__))
    assert issubclass(images.ImageError, config.UserError)
