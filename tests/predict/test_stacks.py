"""Stacks in bulk: every plane is an image of its own, in one input file."""

import base64
import io
import json
import pathlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg.images import formats, slide, slide_write
from seg.predict import bulk, inputs, predictor


@pytest.fixture(scope="module")
def use(tiny):
    return predictor.Predictor(tiny)


def draw(path, shape, letters, seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"photometric": "minisblack"} | options
    tifffile.imwrite(path, pixels, metadata={"axes": letters}, **options)
    return pixels


def run(given, out, use, **kwargs):
    out = pathlib.Path(out).absolute()
    images = inputs.expand(map(str, given)).images
    kwargs = {"names": ("labels", "csv"), "settings": {"model": "a"}} | kwargs
    return bulk.run(images, out, predictor=lambda: use, **kwargs)


def files(folder):
    return {
        path.name: path.read_bytes()
        for path in pathlib.Path(folder).iterdir()
        if path.is_file()
    }


def labels(name):
    return tifffile.imread(f"out/{name}_labels.tif")


def test_each_plane_is_an_image_of_its_own(tmp_path, use):
    pixels = draw(tmp_path / "a.tif", (2, 3, 40, 36), "TZYX", imagej=True)
    Image.fromarray(pixels[0, 0]).save("b.png")
    outcome = run(["a.tif", "b.png"], "out", use)
    assert (outcome.n_done, outcome.n_images) == (7, 7)
    names = {f"a_t00{t}_z00{z}" for t in range(2) for z in range(3)}
    assert files("out").keys() == {
        *(f"{name}_labels.tif" for name in names), "b_labels.tif",
        "objects.csv",
    }  # fmt: skip
    rows = formats.read_table("out/objects.csv")
    assert {row["image"] for row in rows} == names | {"b"}
    for t in range(2):
        for z in range(3):
            alone = use(pixels[t, z]).labels
            np.testing.assert_array_equal(labels(f"a_t00{t}_z00{z}"), alone)
    assert run(["a.tif", "b.png"], "out", None).n_skipped == 7


def test_a_stack_goes_on_where_it_stopped(tmp_path, use):
    draw(tmp_path / "a.tif", (5, 30, 36), "ZYX", compression="zlib")
    run(["a.tif"], "whole", use)
    n = []

    class Stopped(Exception):
        pass

    def stop():
        n.append(1)
        if len(n) == 5 + 4:  # the first look is at all of them
            raise Stopped

    with pytest.raises(Stopped):
        run(["a.tif"], "out", use, check=stop)
    assert files("out").keys() == {f"a_z00{z}_labels.tif" for z in range(3)}
    outcome = run(["a.tif"], "out", use)
    assert (outcome.n_done, outcome.n_skipped) == (2, 3)
    assert files("out") == files("whole")


def test_a_choice_and_a_projection_are_done_alone(tmp_path, use):
    pixels = draw(tmp_path / "a.tif", (2, 3, 2, 40, 36), "TZCYX", imagej=True)
    outcome = run(["a.tif"], "out", use, select="C=1,Z=2,T=0")
    assert outcome.n_done == 1
    np.testing.assert_array_equal(
        labels("a_t000_z002"), use(pixels[0, 2, 1]).labels
    )
    outcome = run(["a.tif"], "out", use, select="C=1", project="max")
    assert outcome.n_done == 2
    for t in range(2):
        largest = pixels[t, :, 1].max(0)
        np.testing.assert_array_equal(labels(f"a_t00{t}"), use(largest).labels)
    again = run(["a.tif"], "out", None, select="C=1", project="max")
    assert again.n_skipped == 2
    # a part of the planes, then all: what is there is not done again
    run(["a.tif"], "parts", use, select="C=0,Z=1-2")
    outcome = run(["a.tif"], "parts", use, select="C=0")
    assert (outcome.n_done, outcome.n_skipped) == (2, 4)


def test_a_broken_plane_is_one_failure(tmp_path, use):
    pixels = np.zeros((4, 20, 20), np.float32)
    pixels[2, 3, 3] = np.nan
    tifffile.imwrite(
        "a.tif", pixels, metadata={"axes": "TYX"}, photometric="minisblack"
    )
    outcome = run(["a.tif"], "out", use)
    assert (outcome.n_done, len(outcome.failures)) == (3, 1)
    (row,) = formats.read_table("out/failures.csv")
    assert row["image"] == str(tmp_path / "a.tif")
    assert row["error"].startswith("T=2: 1 values")


def test_too_many_channels_are_one_failure_that_says_their_names(tmp_path, use):
    tifffile.imwrite(
        "a.tif",
        np.zeros((5, 2, 20, 20), np.uint8),
        ome=True,
        photometric="minisblack",
        metadata={"axes": "ZCYX", "Channel": {"Name": ["DAPI", "GFP"]}},
    )
    outcome = run(["a.tif"], "out", use)
    ((_, reason),) = outcome.failures
    assert "2 channels, the model takes 1; choose with select='C=0'" in reason
    assert reason.endswith("; its channels: 0 DAPI, 1 GFP")
    assert run(["a.tif"], "out", use, select="C=1").n_done == 5


def test_a_small_zarr_is_an_image_as_any_other(tmp_path, use):
    pytest.importorskip("zarr")
    pytest.importorskip("roifile")
    pixels = draw(tmp_path / "a.tif", (60, 72), "YX", imagej=True)
    slide_write.write_zarr(
        tmp_path / "a.zarr", [pixels], pixels.shape, "u1", labels=False
    )
    names = "labels", "roi", "coco", "geojson", "labelme", "rle"
    for kind in ("tif", "zarr"):
        outcome = run([f"a.{kind}"], kind, use, names=names)
        assert (outcome.n_done, outcome.failures) == (1, [])
    assert files("zarr").keys() == files("tif").keys()
    one, other = (tifffile.imread(f"{k}/a_labels.tif") for k in ("tif", "zarr"))
    assert one.any()
    np.testing.assert_array_equal(one, other)


def test_planes_of_a_stack_that_became_an_image_leave_the_table(tmp_path, use):
    draw(tmp_path / "a.tif", (3, 30, 36), "ZYX")
    run(["a.tif"], "out", use)
    draw(tmp_path / "a.tif", (33, 36), "YX", 1)
    assert run(["a.tif"], "out", use).n_done == 1
    rows = formats.read_table("out/objects.csv")
    assert {row["image"] for row in rows} == {"a"}
    (tmp_path / "a.tif").write_bytes(b"broken now")
    assert len(run(["a.tif"], "out", use).failures) == 1
    draw(tmp_path / "a.tif", (2, 30, 36), "ZYX")
    run(["a.tif"], "out", use)
    rows = formats.read_table("out/objects.csv")
    assert {row["image"] for row in rows} == {"a_z000", "a_z001"}


def test_names_of_planes_never_meet(tmp_path, use):
    draw(tmp_path / "x" / "a.tif", (2, 20, 20), "ZYX")
    draw(tmp_path / "y" / "a.tif", (2, 20, 20), "ZYX", 1)
    draw(tmp_path / "x" / "a_z001.tif", (20, 20), "YX", 2)
    run(["x/a.tif"], "out", use)
    before = files("out")["a_z000_labels.tif"]
    run(["y/a.tif", "x/a_z001.tif"], "out", use)
    outcome = run(["x", "y/a.tif"], "out", None)
    assert (outcome.n_skipped, outcome.failures) == (5, [])
    assert files("out")["a_z000_labels.tif"] == before
    stems = {name.removesuffix("_labels.tif") for name in files("out")}
    assert stems == {
        "a_z000", "a_z001", "y_a_z000", "y_a_z001", "x_a_z001", "objects.csv",
    }  # fmt: skip


def test_slides_are_stacks_too(tmp_path, use, monkeypatch):
    monkeypatch.setattr(slide, "LARGE", 1000)
    pixels = draw(
        tmp_path / "a.tif", (3, 80, 70), "ZYX", tile=(16, 16),
        compression="zlib",
    )  # fmt: skip
    assert slide.is_slide("a.tif")
    assert run(["a.tif"], "out", use).n_done == 3
    for z in range(3):
        np.testing.assert_array_equal(
            labels(f"a_z00{z}"), use(pixels[z]).labels
        )
    assert run(["a.tif"], "out", use, project="mean").n_done == 1
    mean = np.rint(pixels.mean(0)).astype(np.uint8)
    np.testing.assert_array_equal(labels("a"), use(mean).labels)
    assert not list(pathlib.Path("out/.seg").glob("*.work"))


def test_what_is_no_image_is_skipped_and_counted(tmp_path, use):
    for name in ("a.png", "b.PNG"):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / name)
    for name in ("c.txt", "d.txt", "thumbs.db", ".DS_Store", "README"):
        (tmp_path / name).write_text("")
    run([tmp_path], tmp_path, use)  # results beside them are not counted
    found = inputs.expand([str(tmp_path)])
    assert [path.name for path in found.images] == ["a.png", "b.PNG"]
    assert found.skipped == {
        ".txt": 2, ".db": 1, "hidden": 1, "without ending": 1,
    }  # fmt: skip
    assert str(found).startswith(
        "5 files that are no images skipped: 2 .txt, 1 "
    )
    assert not str(inputs.expand([str(tmp_path / "a.png")]))


def test_images_in_folders_of_a_folder_are_told_of(tmp_path, use):
    black = Image.fromarray(np.zeros((9, 9), np.uint8))
    for name in ("a.png", "Tag 1/b.png", "Tag 1/c.png", "notes/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        black.save(tmp_path / name, "png")
    out = tmp_path / "out"
    run([tmp_path], out, use, names=("labels", "overlay"))
    assert (out / "a_overlay.png").is_file()
    found = inputs.expand([str(tmp_path)])
    assert [path.name for path in found.images] == ["a.png"]
    assert found.deeper == (tmp_path / "Tag 1",)
    told = str(found)
    assert told.startswith("images in Tag 1 left out; for those too, give '")
    every = inputs.expand([told.split("'")[1]])
    assert {path.name for path in every.images} == {"a.png", "b.png", "c.png"}
    assert not every.deeper
    both = inputs.expand([str(tmp_path), str(tmp_path / "Tag 1")])
    assert len(both.images) == 3 and not str(both)


def test_planes_for_other_programs_have_names_and_pixels(tmp_path, use):
    """LabelMe and COCO name files; a plane is none."""
    pixels = draw(tmp_path / "a.tif", (2, 40, 36), "ZYX")
    run(["a.tif"], "out", use, names=("labelme", "coco"))
    coco = json.loads(pathlib.Path("out/coco.json").read_text())
    names = [image["file_name"] for image in coco["images"]]
    assert names == ["a_z000", "a_z001"]
    for z, name in enumerate(names):
        about = json.loads(pathlib.Path(f"out/{name}.json").read_text())
        content = base64.b64decode(about["imageData"])
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(content))), pixels[z]
        )


def test_older_records_stay_valid(tmp_path, use):
    """Records of before there were planes know neither `plane` nor `base`."""
    Image.fromarray(np.zeros((9, 9), np.uint8)).save("a.png")
    run(["a.png"], "out", use)
    path = pathlib.Path("out/.seg/a.json")
    record = json.loads(path.read_text())
    assert record.pop("plane") == "" and record.pop("base") == "a"
    path.write_text(json.dumps(record))
    assert run(["a.png"], "out", None).n_skipped == 1


def micro(path, seed, **resolution):
    return draw(path, (40, 36), "YX", seed, **resolution)


CM = {"resolutionunit": "CENTIMETER"}


def test_tables_have_micrometres_where_a_file_says_them(tmp_path, use):
    micro(tmp_path / "a.tif", 0)
    micro(tmp_path / "b.tif", 1, resolution=(20000, 20000), **CM)
    micro(tmp_path / "c.tif", 2, resolution=(20000, 40000), **CM)
    names = ("labels", "csv", "images")
    assert run(["."], "out", use, names=names).n_done == 3
    rows = formats.read_table("out/objects.csv")
    assert {name for name in rows[0] if "_um" in name} == {
        "area_um2", "row_um", "col_um", "perimeter_um", "diameter_um",
        "major_axis_um", "minor_axis_um", "nearest_um",
    }  # fmt: skip
    assert {row["image"] for row in rows} == set("abc")
    for row in rows:
        um = [row[name] for name in ("area_um2", "row_um", "col_um")]
        px = [row[name] for name in ("area_px", "row", "col")]
        scale = {"b": (0.25, 0.5, 0.5), "c": (0.125, 0.25, 0.5)}
        if row["image"] == "a":
            assert um == [None, None, None]
        else:
            np.testing.assert_allclose(um, np.multiply(px, scale[row["image"]]))
    about = {row["image"]: row for row in formats.read_table("out/images.csv")}
    assert [about[x]["pixel_size_um"] for x in "abc"] == [
        None, 0.5, pytest.approx(0.125**0.5),
    ]  # fmt: skip
    assert about["b"]["median_area_um2"] == about["b"]["median_area_px"] / 4
    with tifffile.TiffFile("out/c_labels.tif") as file:
        assert file.pages[0].tags["YResolution"].value == (40000, 1)
    micro(tmp_path / "only" / "a.tif", 0)
    run(["only"], "pixels", use)
    rows = formats.read_table("pixels/objects.csv")
    assert rows[0].keys() == set(formats.FIELDS)


def test_tables_of_slides_have_them_too(tmp_path, use, monkeypatch):
    monkeypatch.setattr(slide, "LARGE", 1000)
    tiles = {"tile": (16, 16), "resolution": (20000, 20000), **CM}
    draw(tmp_path / "a.tif", (90, 60), "YX", 3, **tiles)
    run(["a.tif"], "out", use)
    rows = formats.read_table("out/objects.csv")
    assert rows and all(r["area_um2"] == r["area_px"] / 4 for r in rows)
