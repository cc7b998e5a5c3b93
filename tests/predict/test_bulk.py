"""Claims about many images: one bad one stops nothing, a stop loses nothing."""

import functools
import json
import os
import pathlib
import shutil
import threading
import time

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg import config
from seg.images import formats
from seg.predict import bulk, jobs, ledger, predictor
from seg.predict import inputs as inputs_lib

NAMES = ("labels", "classes", "overlay", "probabilities", "csv")


class Stopped(Exception):
    """What a signal raises."""


def draw(path, shape=(40, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode()) + len(path.parts)
    pixels = np.random.default_rng(seed).integers(0, 255, shape)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def use(tiny):
    return predictor.Predictor(tiny)


def run(inputs, out, use, names=("labels", "csv"), settings=None, **kwargs):
    out = pathlib.Path(out).absolute()
    images = inputs_lib.expand(map(str, inputs)).images
    return bulk.run(
        images, out, names, settings or {"model": "a"}, lambda: use, **kwargs
    )


def files(folder):
    """Name -> content of all files but the records."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file() and ".seg" not in path.parts
    }


def test_one_file_for_all_images_is_made_of_their_parts(tmp_path, use):
    for name in ("a", "b"):
        draw(tmp_path / "in" / f"{name}.png")
    names = ("labels", "coco", "rle", "labelme")
    run(["in/a.png"], "out", use, names)
    run(["in"], "out", use, names)
    assert "coco.json" in files("out") and "rle.csv" in files("out")
    coco = json.loads(pathlib.Path("out/coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [
        "a.png",
        "b.png",
    ]
    n = [tifffile.imread(f"out/{x}_labels.tif").max() for x in ("a", "b")]
    assert len(coco["annotations"]) == sum(n) > 1
    rows = formats.read_table("out/rle.csv")
    assert [row["ImageId"] for row in rows] == ["a"] * n[0] + ["b"] * n[1]
    told = json.loads(pathlib.Path("out/b.json").read_text())
    assert pathlib.Path("out", told["imagePath"]).resolve() == (
        tmp_path / "in" / "b.png"
    )
    # a part that is gone is made again, and nothing else
    (part,) = pathlib.Path("out/.seg").glob("a.coco*")
    part.unlink()
    outcome = run(["in"], "out", use, names)
    assert (outcome.n_done, outcome.n_skipped) == (1, 1)
    assert json.loads(pathlib.Path("out/coco.json").read_text()) == coco


def test_grey_and_colour_images_share_a_table(tmp_path, use):
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "in" / "b.png", (40, 50, 3))
    run(["in"], "out", use)
    rows = formats.read_table("out/objects.csv")
    assert {row["image"] for row in rows} == {"a", "b"}
    for row in rows:
        means = [row[f"mean_intensity_{i}"] for i in range(3)]
        if row["image"] == "a":
            assert means == [None] * 3
        else:
            assert sum(means) / 3 == pytest.approx(row["mean_intensity"])


def test_a_table_as_parquet_is_the_same(tmp_path, use):
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("a", "b"):
        draw(tmp_path / "in" / f"{name}.png")
    run(["in"], "out", use, ("labels", "csv", "parquet"))
    table = parquet.read_table("out/objects.parquet")
    rows = formats.read_table("out/objects.csv")
    assert table.column_names == list(rows[0])
    assert len(rows) == table.num_rows > 1
    for ours, theirs in zip(rows, table.to_pylist(), strict=True):
        assert ours.pop("image") == theirs.pop("image")
        assert ours.pop("class") == theirs.pop("class")
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert theirs[name] == (value and pytest.approx(value, rel=1e-7))
    types = {field.name: str(field.type) for field in table.schema}
    assert types["area_px"] == "int64" and types["class"] == "string"
    assert types["solidity"] == "double"


def test_what_was_corrected_by_hand_stays(tmp_path, use, caplog):
    for name in ("a", "b", "c"):
        draw(tmp_path / "in" / f"{name}.png")
    pathlib.Path("out").mkdir()
    pathlib.Path("out/c.json").write_text("made by hand")
    run(["in"], "out", use, ("labelme",))
    assert pathlib.Path("out/c.json").read_text() == "made by hand"
    assert "out/c.json is left as it is" in caplog.text
    made = pathlib.Path("out/a.json").read_text()
    pathlib.Path("out/b.json").write_text("corrected")
    outcome = run(["in"], "out", use, ("labelme", "csv"), {"model": "b"})
    assert outcome.n_done == 3
    assert pathlib.Path("out/b.json").read_text() == "corrected"
    assert pathlib.Path("out/a.json").read_text() == made


def test_it_stays_however_often_the_settings_change(tmp_path, use, caplog):
    draw(tmp_path / "in" / "a.png")
    names = ("labels", "labelme", "csv")
    run(["in"], "out", use, names)
    path = pathlib.Path("out/a.json")
    later = path.stat().st_mtime_ns + 10**9
    path.write_text("corrected")
    os.utime(path, ns=(later, later))
    for model in "bcd":
        assert run(["in"], "out", use, names, {"model": model}).n_done == 1
        assert path.read_text() == "corrected"
    # once it is gone, it is made anew, and is the program's own again
    path.unlink()
    for model in "ef":
        run(["in"], "out", use, names, {"model": model})
        assert json.loads(path.read_text())["shapes"]


ALL = ("labels", "roi", "crops", "coco", "csv")


@pytest.mark.parametrize(
    "name",
    ["a_labels.tif", "b_rois.zip", "b_crops", "coco.json", "objects.csv",
     "failures.csv"],
)  # fmt: skip
def test_what_was_not_made_here_is_not_replaced(tmp_path, use, name):
    for stem in ("a", "b"):
        draw(tmp_path / "in" / f"{stem}.png")
    path = tmp_path / "out" / name
    kept = path / "note" if name == "b_crops" else path
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    with pytest.raises(config.UserError, match=f"out/{name} would be repl"):
        run(["in"], "out", None, ALL)
    assert list(files("out")) == [str(kept.relative_to(tmp_path / "out"))]
    assert kept.read_text() == "precious"
    run(["in"], "whole", use, ALL)
    run(["in"], "out", use, ALL, overwrite=True)
    if name == "failures.csv":  # there are none: it is in nobody's way
        assert kept.read_text() == "precious"
        kept.unlink()
    found = files("out")
    assert found.keys() == files("whole").keys()
    assert b"precious" not in found.values()
    # from now on all is its own
    assert run(["in"], "out", use, ALL, {"model": "b"}).n_done == 2


@pytest.mark.parametrize("older", [False, True])
def test_what_has_changed_since_is_not_replaced(tmp_path, use, older):
    for stem in ("a", "b"):
        draw(tmp_path / "in" / f"{stem}.png")
    run(["in"], "out", use, ALL)
    path = pathlib.Path("out/b_labels.tif")
    path.write_bytes(path.read_bytes()[::-1])
    if older:  # as of a copy that keeps its time
        os.utime(path, (0, 0))
    before = files("out")
    assert run(["in"], "out", None, ALL).n_skipped == 2
    with pytest.raises(config.UserError, match=r"out/b_labels.tif would be"):
        run(["in"], "out", None, ALL, {"model": "b"})
    assert files("out") == before
    path.rename("mine.tif")
    assert run(["in"], "out", use, ALL, {"model": "b"}).n_done == 2
    assert path.read_bytes() == before["b_labels.tif"][::-1]


def test_a_changed_folder_is_not_replaced(tmp_path, use):
    pytest.importorskip("zarr")
    draw(tmp_path / "a.png")
    run(["a.png"], "out", use, ("labels", "omezarr"))
    assert run(
        ["a.png"], "out", use, ("labels", "omezarr"), {"model": "b"}
    ).n_done
    pathlib.Path("out/a.zarr/0/0/1").write_bytes(b"painted")
    before = files("out")
    with pytest.raises(config.UserError, match=r"out/a.zarr would be repl"):
        run(["a.png"], "out", None, ("labels", "omezarr"))
        run(["a.png"], "out", None, ("labels", "omezarr"), {"model": "c"})
    assert files("out") == before


def test_what_was_made_stays_its_own_whatever_comes_between(tmp_path, use):
    path = draw(tmp_path / "a.png")
    run([path], "out", use)
    run([path], "out", use, ("classes",), {"model": "b"})
    image = path.read_bytes()
    path.write_bytes(b"broken now")
    assert run([path], "out", use).failures
    path.write_bytes(image)
    assert run([path], "out", use).n_done == 1
    assert run([path], "out", use, ("classes",)).n_done == 1


@pytest.mark.parametrize("after", range(6))
def test_killed_while_it_writes_it_goes_on(tmp_path, use, monkeypatch, after):
    """Whatever was begun is its own, and is done again."""
    for stem in ("a", "b"):
        draw(tmp_path / "in" / f"{stem}.png")
    names = ("labels", "overlay", "csv")
    run(["in"], "whole", use, names)
    with monkeypatch.context() as patch:
        n_left = [after]
        replace = os.replace

        def killed(source, target):
            if ".seg" not in str(target):
                n_left[0] -= 1
            if n_left[0] < 0:
                raise Interrupted
            replace(source, target)

        patch.setattr(os, "replace", killed)
        if after < 5:
            with pytest.raises(Interrupted):
                run(["in"], "out", use, names)
        else:
            run(["in"], "out", use, names)
    assert len(files("out")) == min(after, 5)
    run(["in"], "out", use, names)
    assert files("out") == files("whole")


def test_one_reason_for_all_needs_no_folder(tmp_path, use):
    for stem in ("a", "b"):
        draw(tmp_path / "in" / f"{stem}.png")
    outcome = run(["in"], "out", use, select="Z=3")
    assert len(outcome.failures) == 2
    assert not pathlib.Path("out").exists()
    (tmp_path / "in" / "b.png").write_bytes(b"broken")
    run(["in"], "out", use, select="Z=3")
    rows = formats.read_table("out/failures.csv")
    assert [pathlib.Path(row["image"]).name for row in rows] == [
        "a.png", "b.png",
    ]  # fmt: skip
    assert not any(str(tmp_path) in row["error"] for row in rows)


def test_images_of_one_name_stay_apart_in_coco(tmp_path, use):
    for folder in ("d1", "d2"):
        draw(tmp_path / folder / "x.png")
    run(["d1", "d2"], "out", use, ("coco",))
    told = json.loads(pathlib.Path("out/coco.json").read_text())
    names = [image["file_name"] for image in told["images"]]
    assert len(set(names)) == 2 and all(n.endswith(".png") for n in names)


def test_images_are_listed_the_most_doubtful_first(tmp_path, use):
    for name in ("a", "b", "c"):
        draw(tmp_path / "in" / f"{name}.png", (40, 50 + 9 * (name == "b")))
    Image.fromarray(np.zeros((20, 30), np.uint8)).save("in/empty.png")
    run(["in"], "out", use, ("csv",))
    assert files("out").keys() == {"objects.csv"}
    run(["in"], "out", use, ("images",))  # of records: nothing is done again
    rows = formats.read_table("out/images.csv")
    assert tuple(rows[0]) == formats.IMAGE_FIELDS
    doubt = [row["doubt"] for row in rows]
    assert doubt == sorted(doubt, reverse=True) and len(rows) == 4
    objects = formats.read_table("out/objects.csv")
    for row in rows:
        own = [o for o in objects if o["image"] == row["image"]]
        assert row["n_objects"] == len(own)
        if not own:
            assert row["probability"] is None and 0 <= row["doubt"] <= 1
            continue
        mean = np.mean([o["probability"] for o in own])
        assert row["doubt"] == pytest.approx(1 - mean, abs=1e-6)
        areas = [o["area_px"] for o in own]
        assert row["median_area_px"] == np.median(areas)
        share = sum(areas) / (row["rows"] * row["cols"])
        assert row["covered"] == pytest.approx(share)
    (wide,) = [row for row in rows if row["image"] == "b"]
    assert (wide["rows"], wide["cols"]) == (40, 59)


def test_each_image_gets_its_files_and_all_one_table(tmp_path, use):
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "in" / "b.PNG", (33, 20))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    outcome = run(["in"], "out", use, NAMES)
    assert (outcome.n_done, outcome.failures) == (2, [])
    per_image = (
        "labels.tif",
        "classes.png",
        "overlay.png",
        "probabilities.tif",
    )
    wanted = {f"{stem}_{end}" for stem in "ab" for end in per_image}
    assert files("out").keys() == wanted | {"objects.csv"}
    labels = tifffile.imread("out/b_labels.tif")
    assert labels.shape == (33, 20)
    assert labels.dtype == np.uint16
    rows = formats.read_table("out/objects.csv")
    n_objects = {
        stem: tifffile.imread(f"out/{stem}_labels.tif").max() for stem in "ab"
    }
    for stem, n in n_objects.items():
        ids = [row["label"] for row in rows if row["image"] == stem]
        assert ids == list(range(1, n + 1))
    assert len(rows) == sum(n_objects.values()) > 0


def test_one_bad_image_stops_nothing(tmp_path, use):
    for name in ("a.png", "z.png"):
        draw(tmp_path / "in" / name)
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot")
    with tifffile.TiffWriter("in/two.tif") as two:
        for side in (9, 8):
            two.write(np.zeros((side, 9), np.uint8), metadata=None)
    tifffile.imwrite("in/nan.tif", np.full((9, 9), np.nan, np.float32))
    outcome = run(["in"], "out", use)
    assert (outcome.n_done, len(outcome.failures)) == (2, 3)
    rows = formats.read_table("out/failures.csv")
    assert [pathlib.Path(row["image"]).name for row in rows] == [
        "broken.png",
        "nan.tif",
        "two.tif",
    ]
    assert "NaN" in rows[1]["error"]
    for name in ("broken.png", "nan.tif", "two.tif"):
        os.remove(tmp_path / "in" / name)
    assert run(["in"], "out", use).n_skipped == 2
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_the_network_has_the_next_image_meanwhile_and_no_more(
    tmp_path, use, monkeypatch
):
    """The first image's objects wait until the second has its map."""
    images = [draw(tmp_path / f"{name}.png") for name in "abcd"]
    mapped = [threading.Event() for _ in images]
    probabilities, objects = use.probabilities, use.objects
    n_mapped, seen = iter(mapped), []

    def map_(*args):
        found = probabilities(*args)
        next(n_mapped).set()
        return found

    def waiting(*args):
        i = len(seen)
        assert all(event.wait(30) for event in mapped[: i + 2])
        time.sleep(0.1)  # in which a third would be done
        seen.append(sum(event.is_set() for event in mapped))
        return objects(*args)

    monkeypatch.setattr(use, "probabilities", map_)
    monkeypatch.setattr(use, "objects", waiting)
    assert run(images, "out", use).n_done == 4
    assert seen == [2, 3, 4, 4]


def test_a_large_image_waits_for_its_turn(tmp_path, use, monkeypatch):
    images = [draw(tmp_path / f"{name}.png") for name in "abc"]
    monkeypatch.setattr(jobs, "_SMALL", 40 * 50 - 1)
    order = []

    def noted(name, method, *args):
        order.append(name)
        return method(*args)

    for name in ("probabilities", "objects"):
        noting = functools.partial(noted, name, getattr(use, name))
        monkeypatch.setattr(use, name, noting)
    assert run(images, "out", use).n_done == 3
    assert order == ["probabilities", "objects"] * 3


def test_a_stop_in_the_next_image_leaves_this_one_done(tmp_path, tiny):
    images = [draw(tmp_path / f"{name}.png", (32, 32)) for name in "abc"]
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run(images, "out", predictor.Predictor(tiny, on_batch=stop))
    assert list(files("out")) == ["a_labels.tif"]
    outcome = run(images, "out", predictor.Predictor(tiny))
    assert (outcome.n_done, outcome.n_skipped) == (2, 1)


def test_a_finished_folder_needs_no_predictor(tmp_path, use):
    draw(tmp_path / "a.png")
    run(["a.png"], "out", use)
    before = files("out")
    os.remove("out/objects.csv")
    outcome = run(["a.png"], "out", None)
    assert (outcome.n_done, outcome.n_skipped) == (0, 1)
    assert files("out") == before


def test_an_image_is_done_again_when_it_or_the_settings_changed(tmp_path, use):
    path = draw(tmp_path / "a.png")
    assert run([path], "out", use).n_done == 1
    assert run([path], "out", use).n_done == 0
    assert run([path], "out", use, overwrite=True).n_done == 1
    assert run([path], "out", use, settings={"model": "b"}).n_done == 1
    assert run([path], "out", use, names=("classes",)).n_done == 1
    assert run([path], "out", use, names=("classes",)).n_done == 0
    draw(path, (20, 21))
    assert run([path], "out", use, names=("classes",)).n_done == 1
    os.remove("out/a_classes.png")
    assert run([path], "out", use, names=("classes",)).n_done == 1


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", range(5))
def test_an_interrupted_run_ends_as_if_it_never_was(tmp_path, use, after):
    for number in range(4):
        draw(tmp_path / "in" / f"{number}.png", (34, 40 + number))
    run(["in"], "whole", use, NAMES)

    def stops(images):
        for n, image in enumerate(images):
            if n == after:
                raise Interrupted
            yield image
        raise Interrupted

    with pytest.raises(Interrupted):
        run(["in"], "out", use, NAMES, progress=stops)
    assert not (tmp_path / "out" / "objects.csv").exists()
    outcome = run(["in"], "out", use, NAMES)
    assert outcome.n_skipped == after
    assert files("out") == files("whole")


def test_killed_between_results_and_record_the_image_is_done_again(
    tmp_path, use
):
    draw(tmp_path / "a.png")
    run(["a.png"], "out", use)
    before = files("out")
    (record,) = pathlib.Path("out/.seg").glob("*.json")
    text = record.read_text()
    for damage in ("", text[: len(text) // 2], "[]", "{}"):
        record.write_text(damage)
        assert run(["a.png"], "out", use).n_done == 1
        assert files("out") == before


def test_equal_stems_never_meet(tmp_path, use):
    sources = [
        draw(tmp_path / name)
        for name in ("x/a.png", "y/a.png", "z/a.png", "z/a.bmp", "z/b.png")
    ]
    assert run(sources, "out", use).n_done == 5
    assert {name.removesuffix("_labels.tif") for name in files("out")} - {
        "objects.csv"
    } == {"x_a", "y_a", "z_a_png", "z_a_bmp", "b"}
    rows = formats.read_table("out/objects.csv")
    assert {row["image"] for row in rows} <= {
        "x_a", "y_a", "z_a_png", "z_a_bmp", "b",
    }  # fmt: skip
    assert run(reversed(sources), "out", use).n_skipped == 5


def test_equal_stems_of_two_calls_never_meet(tmp_path, use):
    first, second, third = (
        draw(tmp_path / folder / "a.png") for folder in "xyz"
    )
    run([first], "out", use)
    before = files("out")["a_labels.tif"]
    run([second], "out", use)
    run([third, first], "out", use)
    assert files("out")["a_labels.tif"] == before
    assert {name[:1] for name in files("out") if "labels" in name} == set("ayz")
    # one table of all that lies there
    rows = formats.read_table("out/objects.csv")
    assert [row["image"] for row in rows] == sorted(
        row["image"] for row in rows
    )
    assert {row["image"] for row in rows} == {"a", "y_a", "z_a"}


def test_names_may_be_long_or_no_unicode(tmp_path, use):
    long = "ü" * 120
    draw(tmp_path / "in" / f"{long}1.png")
    draw(tmp_path / "in" / f"{long}2.png")
    strange = os.fsdecode(b"in/caf\xe9.png")
    os.rename(draw(tmp_path / "in" / "x.png"), strange)
    outcome = run(["in"], "out", use, NAMES)
    assert (outcome.n_done, outcome.failures) == (3, [])
    assert len([name for name in files("out") if "labels" in name]) == 3
    assert run(["in"], "out", use, NAMES).n_skipped == 3
    pathlib.Path(strange).write_bytes(b"broken now")
    assert len(run(["in"], "out", use, NAMES).failures) == 1
    assert "caf" in pathlib.Path("out/failures.csv").read_text()


def test_an_image_that_broke_leaves_the_table(tmp_path, use):
    path = draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    run(["a.png", "b.png"], "out", use)
    path.write_bytes(b"broken now")
    run(["a.png", "b.png"], "out", use)
    rows = formats.read_table("out/objects.csv")
    assert {row["image"] for row in rows} == {"b"}


def test_folders_and_globs_become_images(tmp_path):
    for name in ("in/b.png", "in/a.tif", "in/sub/c.jpg", "in/.hidden.png"):
        draw(tmp_path / name)
    (tmp_path / "in" / "d.txt").write_text("")

    def names(*inputs):
        return [path.name for path in inputs_lib.expand(inputs).images]

    assert names("in") == ["a.tif", "b.png"]
    assert names("in/b.png", "in", "in/*.png") == ["b.png", "a.tif"]
    assert names("in/**/*.*") == ["a.tif", "b.png", "c.jpg"]
    assert names("in/d.txt") == ["d.txt"]  # named itself: reading will tell


@pytest.mark.parametrize(
    "text, message",
    [
        ("empty", "no images in this folder"),
        ("nowhere", "nowhere: no such file or folder"),
        ("empty/*.png", "nor a pattern that matches"),
    ],
)
def test_an_input_that_names_nothing_is_refused(tmp_path, text, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(config.UserError, match=message):
        inputs_lib.expand([text])


def test_results_are_no_inputs(tmp_path, use):
    draw(tmp_path / "a.png")
    run([tmp_path], tmp_path, use, NAMES)
    outcome = run([tmp_path], tmp_path, use, NAMES)
    assert (outcome.n_done, outcome.n_skipped) == (0, 1)


@pytest.mark.parametrize("ledger_is_there", [True, False])
def test_results_are_no_inputs_of_another_folder(
    tmp_path, use, ledger_is_there
):
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "in" / "own_labels.png")  # of no image: one of its own
    tifffile.imwrite(
        "in/z.tif", np.zeros((2, 9, 9), np.uint8), metadata={"axes": "ZYX"}
    )
    run(["in"], "in", use, NAMES)
    if not ledger_is_there:
        shutil.rmtree("in/.seg")
    for text in ("in", "in/*"):
        found = inputs_lib.expand([text])
        assert [path.name for path in found.images] == [
            "a.png", "own_labels.png", "z.tif",
        ]  # fmt: skip
        assert found.n_results == 4 * 4  # tables and records are no images
        assert "16 images skipped that are results" in str(found)
    found = inputs_lib.expand(["in/a_labels.tif", "in"])
    assert found.images[0].name == "a_labels.tif"  # named itself
    assert (len(found.images), found.n_results) == (4, 15)


def test_a_folder_of_results_alone_has_no_images(tmp_path, use):
    draw(tmp_path / "a.png")
    run(["a.png"], "out", use, NAMES)
    with pytest.raises(config.UserError, match="only results of images"):
        inputs_lib.expand(["out"])


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path, use):
    draw(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(config.UserError, match="choose another folder"):
        run(["a.png"], "file", use)


def test_records_hold_plain_numbers(tmp_path, use):
    draw(tmp_path / "a.png")
    run(["a.png"], "out", use)
    record = json.loads(pathlib.Path("out/.seg/a.json").read_text())
    assert record["source"] == str(tmp_path / "a.png")
    assert record["rows"][0]["image"] == "a"
    assert isinstance(record["rows"][0]["area_px"], int)


def test_a_folder_of_results_belongs_to_one_process(tmp_path, use):
    draw(tmp_path / "in" / "a.png")
    with (
        ledger.held(tmp_path / "out"),
        pytest.raises(
            config.UserError, match=rf"in use by process {os.getpid()} "
        ),
    ):
        run(["in"], "out", use)
    assert run(["in"], "out", use).n_done == 1
