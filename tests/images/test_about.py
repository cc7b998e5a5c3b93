"""What files say of themselves; the writers are tifffile and zarr."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg import images
from seg.images import about, read, slide_write, write

PLANE = np.zeros((13, 9), np.uint8)
STACK = np.zeros((5, 2, 13, 9), np.uint8)


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"photometric": "minisblack"} | options)
    return file.getvalue()


def ome(**metadata):
    return tiff(STACK, ome=True, metadata={"axes": "ZCYX"} | metadata)


def size(content):
    return about.read_about(content).pixel_size


@pytest.mark.parametrize(
    "unit, um",
    [("µm", 1), ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("Å", 1e-4)],
)
def test_ome_says_the_size_in_its_unit(unit, um):
    content = ome(
        PhysicalSizeX=0.5, PhysicalSizeXUnit=unit,
        PhysicalSizeY=0.25, PhysicalSizeYUnit=unit,
    )  # fmt: skip
    assert size(content) == pytest.approx((0.25 * um, 0.5 * um))


def test_ome_without_a_unit_means_micrometres_and_pixels_are_none():
    assert size(ome(PhysicalSizeX=0.5, PhysicalSizeY=0.5)) == (0.5, 0.5)
    assert size(ome(PhysicalSizeX=0.5)) is None
    assert size(ome()) is None
    for unit in ("pixel", "reference frame"):
        units = {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
        assert size(ome(PhysicalSizeX=1, PhysicalSizeY=1, **units)) is None


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much"])
def test_a_size_that_is_none_is_not_taken(value):
    content = ome(PhysicalSizeX=0.125, PhysicalSizeY=0.125)
    broken = content.replace(b'"0.125"', f'"{value}"'.encode().ljust(7))
    assert len(broken) == len(content)
    assert size(broken) is None


@pytest.mark.parametrize(
    "unit, um", [("um", 1), ("micron", 1), ("\\u00B5m", 1), ("nm", 1e-3)]
)
def test_imagej_says_it_by_the_resolution(unit, um):
    content = tiff(
        STACK, imagej=True, resolution=(4, 2),
        metadata={"axes": "ZCYX", "unit": unit},
    )  # fmt: skip
    assert size(content) == pytest.approx((0.5 * um, 0.25 * um))


@pytest.mark.parametrize("unit", ["pixel", "", "inch"])
def test_imagej_without_a_scale_says_none(unit):
    content = tiff(
        PLANE, imagej=True, resolution=(72, 72), metadata={"unit": unit}
    )
    assert size(content) is None


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200])
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG"])
def test_the_dots_of_a_printer_are_no_pixels(kind, dpi):
    file = io.BytesIO()
    Image.fromarray(PLANE).save(file, kind, dpi=(dpi, dpi))
    assert size(file.getvalue()) is None


def test_resolution_tags_of_a_microscope_are_taken():
    content = tiff(
        PLANE, resolution=(20000, 10000), resolutionunit="CENTIMETER"
    )
    assert size(content) == pytest.approx((1.0, 0.5))
    content = tiff(PLANE, resolution=(25400, 25400), resolutionunit="INCH")
    assert size(content) == pytest.approx((1.0, 1.0))
    content = tiff(PLANE, resolution=(20000, 20000), resolutionunit="NONE")
    assert size(content) is None
    content = tiff(PLANE, resolution=(0, 0), resolutionunit="CENTIMETER")
    assert size(content) is None


def test_a_turned_image_has_a_turned_pixel():
    said = about.read_about(
        tiff(
            PLANE, resolution=(20000, 10000), resolutionunit="CENTIMETER",
            extratags=[(0x0112, "H", 1, 6, True)],
        )
    )  # fmt: skip
    assert said.shape == (9, 13)
    assert said.pixel_size == pytest.approx((0.5, 1.0))


def test_channels_have_names_where_all_have():
    def channels(*names):
        return about.read_about(ome(Channel={"Name": names})).channels

    assert channels("DAPI", "GFP\n 488") == ("DAPI", "GFP 488")
    assert about.read_about(ome()).channels == ()
    content = tiff(
        STACK, imagej=True, metadata={"axes": "ZCYX", "Labels": ["a", "b"] * 5}
    )
    assert about.read_about(content).channels == ("a", "b")


def written_zarr(folder, scale, unit, name="a.zarr"):
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group(folder / name, zarr_format=2)
    level = group.create_array("0", shape=STACK.shape, dtype=np.uint8)
    level[...] = STACK
    axes = [
        {"name": "z", "type": "space"}, {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": unit},
        {"name": "x", "type": "space", "unit": unit},
    ]  # fmt: skip
    changes = [{"type": "scale", "scale": scale}]
    of = {"path": "0", "coordinateTransformations": changes}
    group.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": [of]}
    ]
    group.attrs["omero"] = {"channels": [{"label": "a"}, {"label": "b"}]}
    return folder / name


def test_a_zarr_says_it_by_scale_and_unit(tmp_path):
    path = written_zarr(tmp_path, [1, 1, 250, 500], "nanometer")
    said = about.read_about(path)
    assert said.pixel_size == pytest.approx((0.25, 0.5))
    assert said.channels == ("a", "b")
    assert (said.shape, said.letters) == ((13, 9), "ZCYX")
    path = written_zarr(tmp_path, [1, 1, 1, 1], "", "b.zarr")
    assert about.read_about(path).pixel_size is None


def test_results_carry_the_size_along(tmp_path):
    labels = np.arange(12).reshape(3, 4)
    write.write_labels(tmp_path / "a.tif", labels, (0.325, 0.65))
    strips = [labels.astype(np.uint16)]
    slide_write.write_tiff(
        tmp_path / "b.tif", strips, (3, 4), np.uint16, pixel_size=(0.325, 0.65)
    )
    pytest.importorskip("zarr")
    slide_write.write_zarr(
        tmp_path / "c.zarr", strips, (3, 4), np.uint16, labels=True,
        pixel_size=(0.325, 0.65),
    )  # fmt: skip
    for name in ("a.tif", "b.tif", "c.zarr"):
        found = about.read_about(tmp_path / name).pixel_size
        assert found == pytest.approx((0.325, 0.65), rel=1e-6)
    # as Fiji reads it: pixels a centimetre, which it shows as micrometres
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        above, below = tags["XResolution"].value
        assert 1e4 * below / above == pytest.approx(0.65)
        assert tags["ResolutionUnit"].value == 3
    write.write_labels(tmp_path / "d.tif", labels)
    assert size(tmp_path / "d.tif") is None


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;">'
    '<!ENTITY f SYSTEM "file:///etc/passwd">]>'
)


@pytest.mark.parametrize("reader", [read.read_image, about.read_about])
def test_xml_with_entities_is_refused_before_it_is_parsed(reader):
    with tifffile.TiffFile(io.BytesIO(ome())) as file:
        text = file.pages[0].description
    head, _, rest = text.partition("?>")
    for bad in (BOMB, BOMB.replace("<!DOCTYPE x", "<!DOCTYPE  OME")):
        content = tiff(
            STACK, description=head + "?>" + bad + rest, metadata=None
        )
        with pytest.raises(images.ImageError, match="entities of XML") as error:
            reader(content)
        assert "\n" not in str(error.value)
