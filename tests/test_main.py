"""Claims about the command `seg`: exit codes, one line, files, resuming."""

import dataclasses
import glob
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tifffile
from flax import nnx
from PIL import Image

import seg
from seg import config, models
from seg.images import formats
from seg.predict import bundle
from seg.train import tracking


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a bundle of a tiny network."""
    settings = config.replace(
        config.Config(),
        {"model.width": 4, "model.depth": 1, "predict.tile": 32},
    )
    network = nnx.eval_shape(lambda: models.build(settings.model, nnx.Rngs(0)))
    draw = np.random.default_rng(0)
    weights = {
        "/".join(map(str, path)): draw.normal(0, 0.5, value.shape)
        for path, value in nnx.to_flat_state(nnx.state(network))
    }
    weights["head/kernel"] = np.array([-9, 9]).reshape(1, 1, 2, 1)
    weights = {k: v.astype(np.float32) for k, v in weights.items()}
    meta = {"metrics": {"val/dice": 0.5}, "licence": "CC0-1.0"}
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return bundle.save(bundle.Bundle(settings, weights, meta), folder)


@pytest.fixture
def photos():
    """A folder `in` with three images."""
    folder = pathlib.Path("in")
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        draw_photo(folder / name)
    return folder


def draw_photo(path, shape=(40, 48)):
    draw = np.random.default_rng(sum(path.name.encode()))
    pixels = draw.integers(0, 255, shape).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def files(folder):
    return {
        path.name: path.read_bytes()
        for path in pathlib.Path(folder).iterdir()
        if path.is_file()
    }


def test_predict_writes_the_files_of_the_contract(run, model, photos):
    status, out, err = run("predict", photos, f"--model={model}", "--out=out")
    assert (status, err) == (0, "")
    assert "3 segmented" in out
    ends = ("labels.tif", "overlay.png")
    wanted = {f"{stem}_{end}" for stem in "abc" for end in ends}
    assert files("out").keys() == wanted | {"objects.csv"}
    rows = formats.read_table("out/objects.csv")
    assert rows[0].keys() == set(formats.FIELDS)
    status, out, _ = run("predict", photos, f"--model={model}", "--out=out")
    assert status == 0
    assert "0 segmented, 3 finished before" in out


def test_flags_override_the_models_settings(run, model, photos):
    common = ("predict", photos, f"--model={model}", "--formats=csv")
    run(*common, "--out=all")
    run(*common, "--out=large", "--predict.min_area=40")
    rows = formats.read_table("all/objects.csv")
    large = formats.read_table("large/objects.csv")
    assert 0 < len(large) < len(rows)
    assert files("large").keys() == {"objects.csv"}


def test_a_mixed_folder_with_a_stack(run, model, photos):
    (photos / "notes.txt").write_text("")
    (photos / "thumbs.db").write_text("")
    draw = np.random.default_rng(0)
    tifffile.imwrite(
        photos / "deep.tif",
        draw.integers(0, 255, (3, 2, 30, 36), np.uint8),
        imagej=True,
        resolution=(2, 2),
        metadata={"axes": "ZCYX", "unit": "um", "Labels": ["405", "488"] * 3},
    )
    common = ("predict", photos, f"--model={model}", "--formats=labels,csv")
    status, out, err = run(*common, "--out=out")
    assert status == 3  # the stack has two channels
    assert err.startswith("note: 2 files that are no images skipped: ")
    assert "choose with select='C=0' (0 to 1)" in err
    assert "1 of 4 images failed" in err and "0 405, 1 488" in err
    (photos / "notes.txt").unlink()
    (photos / "thumbs.db").unlink()
    status, out, err = run(*common, "--out=out", "--select=C=0")
    assert (status, err) == (0, "")
    assert "6 segmented" in out
    assert "deep_z002_labels.tif" in files("out")
    rows = formats.read_table("out/objects.csv")
    um = {row["image"]: row["area_um2"] for row in rows}
    assert um["deep_z000"] and um["a"] is None
    deep = photos / "deep.tif"
    status, out, err = run(
        "predict", deep, *common[2:], "--out=one", "--select=C=1",
        "--project=mean",
    )  # fmt: skip
    assert (status, err) == (0, "") and "1 segmented" in out
    assert files("one").keys() == {"deep_labels.tif", "objects.csv"}


def test_of_other_channels_the_one_of_nuclei_is_taken(run, model, photos):
    def stack(file, names):
        draw = np.random.default_rng(0)
        tifffile.imwrite(
            photos / file,
            draw.integers(0, 255, (len(names), 30, 36), np.uint8),
            imagej=True,
            metadata={"axes": "CYX", "Labels": names},
        )

    stack("two.tif", ["GFP", "Hoechst 33342"])
    stack("more.tif", ["Actin", "nuclei (405)", "ER", "Nucleolin"])
    stack("both.tif", ["DAPI", "H2B-GFP"])
    common = ("predict", photos, f"--model={model}", "--formats=labels")
    status, _, err = run(*common, "--out=out")
    assert status == 3 and "1 of 6 images failed" in err
    assert "both.tif: the image has 2 channels, the model takes 1; " in err
    assert "channel 1 (Hoechst 33342) is taken, which by its name" in err
    assert "channel 1 (nuclei (405)) is taken, which by its name" in err
    before = files("out")
    assert {"two_labels.tif", "more_labels.tif"} <= before.keys()
    status, told, _ = run(*common, "--out=out")
    assert "0 segmented, 5 finished before" in told
    asked = run(*common[:1], photos / "two.tif", *common[2:], "--out=one",
                "--select=C=1")  # fmt: skip
    assert asked[0] == 0 and "is taken" not in asked[2]
    assert files("one")["two_labels.tif"] == before["two_labels.tif"]


def test_some_that_failed_are_status_3(run, model, photos):
    (photos / "broken.png").write_bytes(b"nothing")
    status, _, err = run("predict", photos, f"--model={model}", "--out=out")
    assert status == 3
    assert "1 of 4 images failed, see" in err
    (row,) = formats.read_table("out/failures.csv")
    assert row["image"].endswith("broken.png")


def test_all_that_failed_are_status_2(run, model):
    for name in ("a.png", "b.png"):
        pathlib.Path(name).write_bytes(b"nothing")
    common = (f"--model={model}", "--out=out")
    status, _, err = run("predict", "a.png", *common)
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("a.png") == err.count("\n") == 1
    status, _, err = run("predict", "a.png", "b.png", *common)
    assert status == 2
    assert err.startswith("error: all 2 images failed, as ")


MODEL, OUT, PHOTO = "--model=MODEL", "--out=out", "in/a.png"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "0 done; 2 bad input"),
        (("pedict",), "did you mean predict?"),
        (("predict", MODEL, OUT), "no INPUT"),
        (("predict", PHOTO, MODEL), "give --out=DIR"),
        (("predict", PHOTO, MODEL, "--ot=out"), "did you mean out"),
        (("predict", PHOTO, MODEL, OUT, "--predict.tta=3"), "choose one of"),
        (("predict", PHOTO, MODEL, OUT, "--predict.tta=x"), "not of type int"),
        (("predict", PHOTO, MODEL, OUT, "--formats=lables"), "mean labels"),
        (("predict", PHOTO, "--model=nuc", OUT), "no model 'nuc'"),
        (("predict", "nowhere.png", MODEL, OUT), "nowhere.png: no such file"),
        (("info",), "give MODEL"),
        (("info", "nowhere"), "no model 'nowhere'"),
        (("export", "nowhere"), "no model 'nowhere'"),
        (("export", "MODEL", "--format=bundle"), "give --out=DIR"),
        (("predict", PHOTO, MODEL, OUT, "--diameter=0"), "diameter=0"),
        (("predict", PHOTO, MODEL, OUT, "--diameter=30"), "data.diameter=0"),
        (("predict", PHOTO, MODEL, OUT, "--select=Z"), "is not like 'Z=3'"),
        (("predict", PHOTO, MODEL, OUT, "--project=maxi"), "mean max?"),
        (("export", MODEL, "--format=onyx"), "<stablehlo|onnx|bioimageio|"),
        (("verify", "nowhere"), "nowhere does not exist"),
        (("track-sync", "in"), "holds no spool"),
    ],
)
def test_bad_input_is_status_2_and_one_line(
    run, model, photos, arguments, message
):
    arguments = [a.replace("MODEL", str(model)) for a in arguments]
    status, out, err = run(*arguments)
    assert status == 2
    assert message in out + err
    if arguments:
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert not pathlib.Path("out").exists()


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("--help",), "seg predict INPUT..."),
        (("--version",), seg.__version__),
        (("predict", "--help"), "--predict.threshold: foreground probability"),
        (("info", "-h"), "seg info MODEL"),
        (("serve", "--help"), "--port: port; 0 = one that is free"),
    ],
)
def test_help_is_status_0(run, arguments, text):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert text in out


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from seg import __main__ as m\n"
        "try: m.main(['predict', '--help'])\n"
        "except SystemExit: print('loaded:', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.rpartition("loaded:")[2].split()
    assert not {"jax", "numpy", "scipy"} & set(loaded)


def test_info_says_what_a_model_is(run, model):
    status, out, _ = run("info", model)
    lines = dict(re.split("  +", line) for line in out.splitlines())
    assert status == 0
    assert lines["classes"] == "background, nucleus"
    assert lines["predict.tile"] == "32"
    assert lines["licence"] == "CC0-1.0"
    assert lines["metrics val/dice"] == "0.5"


def test_a_bundle_to_hand_on_is_half_as_large_and_predicts_alike(run, model):
    whole = bundle.load(model)
    status, out, _ = run("export", model, "--format=bundle", "--out=small")
    assert (status, out.strip()) == (0, str(pathlib.Path("small").resolve()))
    small = bundle.load("small")
    assert small.exports == {} and small.meta == whole.meta
    sizes = [
        (pathlib.Path(folder) / bundle.WEIGHTS).stat().st_size
        for folder in ("small", model)
    ]
    assert sizes[0] < 0.8 * sizes[1]
    for name, array in whole.weights.items():
        np.testing.assert_allclose(small.weights[name], array, rtol=1e-3)


def test_a_bundle_to_hand_on_tells_nothing_of_the_machine(run, model):
    there = {
        "track.uri": "http://me@lab.example/mlflow",
        "data.path": "/home/me/secret/cells.zip",
        "train.start": "/home/me/secret/first",
        "data.exclude": "lists/gone.txt",
    }
    told = bundle.load(model)
    settings = config.replace(told.config, there)
    bundle.save(dataclasses.replace(told, config=settings), "told")
    assert run("export", "told", "--format=bundle", "--out=small")[0] == 0
    flat = config.to_flat(bundle.load("small").config)
    assert flat["data.path"] == "cells.zip" and flat["train.start"] == "first"
    assert flat["data.exclude"] == "lists/gone.txt"
    assert "/home" not in pathlib.Path("small/model.json").read_text()
    assert "lab.example" not in pathlib.Path("small/model.json").read_text()


def test_export_adds_the_program_to_the_bundle(run, model):
    status, out, _ = run("export", model)
    assert status == 0
    path = pathlib.Path(out.strip())
    assert path == model / "program.stablehlo"
    bundle.load(model)
    run("export", model, "--out=alone/p.stablehlo")
    for file in (path, pathlib.Path("alone/p.stablehlo")):
        program = jax.export.deserialize(bytearray(file.read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")


def test_export_replaces_nothing_unasked(run, model):
    kept = pathlib.Path("theirs.stablehlo")
    kept.write_text("precious")
    ask = ("export", model, f"--out={kept}")
    status, _, told = run(*ask)
    assert status == 2 and "theirs.stablehlo is there already; give --o" in told
    assert kept.read_text() == "precious"
    assert run(*ask, "--overwrite")[0] == 0
    assert jax.export.deserialize(bytearray(kept.read_bytes()))
    ask = ("export", model, "--format=bundle", "--out=small")
    assert [run(*ask)[0] for _ in range(2)] == [0, 2]
    assert run(*ask, "--overwrite")[0] == 0


def test_export_of_what_comes_along_is_written_here(run, model, monkeypatch):
    monkeypatch.setattr(seg, "ZOO", model.parent)
    before = files(model)
    status, out, _ = run("export", model.name)
    assert (status, out) == (0, "tiny.stablehlo\n")
    assert pathlib.Path("tiny.stablehlo").stat().st_size
    assert files(model) == before


def test_export_to_where_nothing_can_be_is_one_line(run, model):
    status, _, told = run("export", model, "--out=/proc/x.stablehlo")
    assert status == 2 and told.count("\n") == 1
    assert told.startswith("error: --out=/proc/x.stablehlo: No such file")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_ends_it_quietly(model, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "seg", "info", model],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == (141 if unbuffered else 0)


def test_verify_lists_all_defects(run):
    for folder in ("images", "masks"):
        pathlib.Path("data", folder).mkdir(parents=True)
        for name in ("a.png", "b.png", "c.png"):
            draw_photo(pathlib.Path("data", folder, name))
    for name in ("a.png", "b.png", "c.png"):
        mask = np.zeros((40, 48), np.uint8)
        mask[3:9, 3:9] = 1
        Image.fromarray(mask).save(f"data/masks/{name}")
    status, out, err = run("verify", "data")
    assert (status, err) == (0, "")
    assert "no defects in data as data.layout=folders" in out
    pathlib.Path("data/images/a.png").write_bytes(b"nothing")
    pathlib.Path("data/masks/b.png").unlink()
    status, out, err = run("verify", "data")
    assert status == 2
    assert "error: 2 defects in data" in err
    assert "a.png" in out
    assert "b.png" in out


def test_verify_takes_the_labels_that_are_drawn_for_classes(run):
    """As seg train does; a file that is broken does not hide the others."""
    pathlib.Path("data").mkdir()
    for name, label in (("a", "cell"), ("b", "bead"), ("c", "bead")):
        Image.new("L", (40, 30)).save(f"data/{name}.png")
        triangle = {"label": label, "points": [[2, 2], [20, 2], [9, 20]]}
        shape = triangle | {"shape_type": "polygon"}
        found = {"imagePath": f"{name}.png", "shapes": [shape]}
        pathlib.Path(f"data/{name}.json").write_text(json.dumps(found))
    assert run("verify", "data")[::2] == (0, "")
    pathlib.Path("data/c.json").write_text("{")
    status, out, err = run("verify", "data")
    assert status == 2
    assert "error: 1 defect in data" in err
    assert "c.json" in out
    status, out, err = run("verify", "data", "--classes=background,bead")
    assert "error: 2 defects in data" in err
    assert "unknown class 'cell'" in out


def save_pairs(mask):
    for folder in ("images", "masks"):
        pathlib.Path("data", folder).mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png", "c.png"):
        draw_photo(pathlib.Path("data/images", name), mask.shape)
        Image.fromarray(mask).save(f"data/masks/{name}")


def test_verify_takes_no_classes_for_objects_but_objects_for_what_they_are(run):
    """Three classes where two are named: as prepare refuses them."""
    classes = np.zeros((40, 48), np.uint8)
    for k in range(1, 4):
        classes[10 * k : 10 * k + 5, ::8] = k
        classes[10 * k : 10 * k + 5, 1::8] = k
    save_pairs(classes)
    status, out, err = run("verify", "data")
    assert status == 2
    assert "error: 3 defects in data as data.layout=folders" in err
    assert out.count("are they objects?") == 3
    few = np.where(np.arange(48) < 18, classes, 0).astype(np.uint8)
    save_pairs(few)  # as few regions as objects in pieces may have
    status, out, err = run("verify", "data")
    assert (status, out.count("are they objects?")) == (2, 3)
    ids = np.where(classes, 1 + np.arange(48) // 8 + 6 * (classes - 1), 0)
    save_pairs(ids.astype(np.uint8))
    status, out, err = run("verify", "data")
    assert (status, err) == (0, "")
    assert "no defects in data as data.layout=folders" in out


def test_track_sync_hands_folder_and_uri_on(run, monkeypatch):
    """What the upload itself does is claimed in train/test_tracking.py."""
    seen = []

    def sync(folder, uri):
        seen.append((folder, uri))
        return {pathlib.Path("spool/a"): "7f3c"}

    monkeypatch.setattr(tracking, "sync", sync)
    status, out, _ = run("track-sync", "spool", "--track.uri=http://host")
    assert (status, out) == (0, "spool/a: run 7f3c\n")
    assert seen == [("spool", "http://host")]


N_PHOTOS, N_FIRST = 40, 10


def call(*arguments):
    return [sys.executable, "-m", "seg", "predict", *map(str, arguments)]


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """Arguments of a run over many photos, and what it left."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "in").mkdir()
    for k in range(N_PHOTOS):
        draw_photo(folder / "in" / f"{k:02}.png", (90, 90))
    arguments = (folder / "in", f"--model={model}")
    subprocess.run(call(*arguments, f"--out={folder / 'out'}"), check=True)
    return arguments, files(folder / "out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_and_ends_the_same(finished, number):
    arguments, wanted = finished
    started = subprocess.Popen(
        call(*arguments, "--out=out"), stderr=subprocess.PIPE
    )

    def count():
        """Records of what is finished; those without settings have begun."""
        paths = map(pathlib.Path, glob.glob("out/.seg/*.json"))
        return sum(bool(json.loads(p.read_text())["settings"]) for p in paths)

    deadline = time.monotonic() + 200
    while count() < N_FIRST:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    started.send_signal(number)
    _, err = started.communicate(timeout=100)
    if number == signal.SIGTERM:
        assert started.returncode == 33
        assert err.startswith(b"stopped: SIGTERM")
    n_finished = count()
    assert N_FIRST <= n_finished < N_PHOTOS
    assert not pathlib.Path("out/objects.csv").exists()

    done = subprocess.run(
        call(*arguments, "--out=out"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{n_finished} finished before" in done.stdout
    # A killed process may leave a temporary file, never half a result.
    found = {k: v for k, v in files("out").items() if not k.startswith(".")}
    assert found == wanted


def draw_labels(path, shape=(40, 48), n=4):
    labels = np.zeros(shape, np.uint16)
    for k in range(n):
        labels[4:14, 10 * k + 2 : 10 * k + 9] = k + 1
    Image.fromarray(labels).save(path)
    return labels


def test_labels_become_a_table_with_intensities(run, photos):
    labels = draw_labels("a_labels.tif")
    assert run("measure", "a_labels.tif", "--images=in", "--out=out")[0] == 0
    rows = formats.read_table("out/objects.csv")
    pixels = np.asarray(Image.open("in/a.png"))
    assert [row["area_px"] for row in rows] == [70] * 4
    for row in rows:
        inside = pixels[labels == row["label"]]
        assert row["mean_intensity"] == pytest.approx(inside.mean())
        assert row["image"] == "a" and row["probability"] is None


def test_objects_go_to_other_programs_and_back(run, photos):
    labels = draw_labels("a_labels.tif")
    forms = "--formats=geojson,roi,coco,rle,labelme,csv,overlay"
    assert (
        run("convert", "a_labels.tif", forms, "--images=in", "--out=out")[0]
        == 0
    )
    for name in ("a.geojson", "a_rois.zip", "coco.json", "rle.csv", "a.json"):
        back = f"--out=back_{name}"
        status, told, _ = run("convert", f"out/{name}", "--images=in", back)
        assert status == 0 and told.startswith("1 converted")
        found = np.asarray(Image.open(f"back_{name}/a_labels.tif"))
        np.testing.assert_array_equal(found > 0, labels > 0)
        assert len(np.unique(found)) == 5


def test_what_is_there_is_not_overwritten_unasked(run, photos):
    draw_labels("a_labels.tif")
    ask = ("measure", "a_labels.tif", "--out=out")
    assert run(*ask)[0] == 0
    status, _, told = run(*ask)
    assert status == 2 and "objects.csv is there already" in told
    assert run(*ask, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("a.geojson",), "the image 'a' is needed, for its size; give --im"),
        (("a.geojson", "--images=in"), "a point at x=900"),
        (("a_labels.tif", "--images=in"), "labels of 30x48 px, in/a.png has"),
        (("a_labels.tif", "--formats=overlay"), "shows the image; give --im"),
        (("a_labels.tif", "--formats=uncertainty"), "needs probabilities"),
        (("b.tif",), "b.tif: no such file"),
        (("in", "--formats=pdf"), "unknown format 'pdf'"),
        (("a_labels.tif", "--images=none"), "--images=none: no such file"),
        ((), "no INPUT"),
    ],
)
def test_a_conversion_that_cannot_be_is_one_line(
    run, photos, arguments, message
):
    draw_labels("a_labels.tif", (30, 48))
    ring = [[[1, 1], [900, 1], [9, 9]]]
    pathlib.Path("a.geojson").write_text(
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": '
        f"{ring}}}}}"
    )
    status, _, told = run("convert", *arguments, "--out=out")
    assert status == 2 and message in told and told.count("\n") == 1


def test_one_bad_file_of_labels_stops_nothing(run, photos):
    draw_labels("a_labels.tif")
    pathlib.Path("b_labels.tif").write_bytes(b"II*\0broken")
    status, _, told = run("measure", ".", "--out=out")
    assert status == 3 and "1 of 2 images failed" in told
    assert formats.read_table("out/objects.csv")
    assert "b_labels.tif" in pathlib.Path("out/failures.csv").read_text()


@pytest.fixture
def labelled():
    """A folder `cells` of three images and masks of object ids."""
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        for kind in ("images", "masks"):
            pathlib.Path("cells", kind).mkdir(parents=True, exist_ok=True)
        draw_photo(pathlib.Path("cells/images", name))
        draw_labels(pathlib.Path("cells/masks", name), n=2 + i)
    return pathlib.Path("cells")


def test_labels_of_any_program_are_scored(run, labelled):
    ask = ("evaluate", labelled)
    status, told, _ = run(*ask, "--labels=cells/masks", "--out=out")
    assert status == 0 and "3 images" in told
    table = dict(
        [cell.strip() for cell in line.split("|")[1:3]]
        for line in told.splitlines()
        if line.startswith("|")
    )
    assert table["ap50"].startswith("1.000") and table["dice"][:5] == "1.000"
    assert pathlib.Path("out/scores.json").exists()
    # one object of two is missed in one of the images, and one is split
    pathlib.Path("theirs").mkdir()
    for name in ("a", "b", "c"):
        labels = np.array(Image.open(f"cells/masks/{name}.png"))
        if name == "a":
            labels[labels == 2] = 0
        Image.fromarray(labels).save(f"theirs/{name}_labels.tif")
    status, told, _ = run(*ask, "--labels=theirs")
    assert status == 0 and "| 0.889" in told  # AP@0.5: 8 of 9 objects


def test_a_model_is_scored_on_a_folder(run, labelled, model):
    status, told, _ = run("evaluate", labelled, f"--model={model}")
    assert status == 0 and "dice" in told


def test_a_model_is_scored_as_it_is_asked_to_predict(
    run, labelled, model, monkeypatch
):
    from seg.predict import predictor

    seen = []
    monkeypatch.setattr(
        predictor.Predictor, "probabilities",
        lambda self, *_: (seen.append(self.config.predict.tta),
                          np.zeros((40, 48, 1), np.float32))[1],
    )  # fmt: skip
    ask = ("evaluate", labelled, f"--model={model}", "--predict.tta=8")
    assert run(*ask)[0] == 0
    assert seen == [8] * 3


def test_several_classes_are_scored_by_their_names(run, tmp_path):
    for folder in ("images", "masks", "theirs"):
        pathlib.Path("cells", folder).mkdir(parents=True)
    shapes = []
    truth = np.zeros((40, 48), np.uint8)
    for k, (name, x) in enumerate((("cell", 5), ("nucleus", 25)), 1):
        truth[5:15, x : x + 10] = k
        points = [[x, 5], [x + 9, 5], [x + 9, 14], [x, 14]]
        shapes.append({"label": name, "points": points})
    draw_photo(pathlib.Path("cells/images/a.png"))
    Image.fromarray(truth).save("cells/masks/a.png")
    pathlib.Path("a.json").write_text(
        json.dumps({"shapes": shapes[::-1], "imagePath": "a.png"})
    )
    pathlib.Path("theirs").mkdir()
    pathlib.Path("a.json").rename("theirs/a.json")
    ask = ("evaluate", "cells", "--labels=theirs", "--data.layout=folders")
    status, _, error = run(
        *ask, "--classes=background,cell,nucleus", "--out=out"
    )
    assert status == 0, error
    scores = json.loads(pathlib.Path("out/scores.json").read_text())["metrics"]
    assert scores["all/dice_nucleus"] > 0.85 < scores["all/dice_cell"]
    status, _, error = run(*ask, "--classes=background,cell,bead")
    assert status == 2 and "unknown class 'nucleus'" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("cells",), "give --model=MODEL or --labels=DIR"),
        (("cells", "--labels=cells/masks", "--model=x"), "one of them"),
        (("cells", "--labels=few"), "nothing for image 'a'"),
        (("cells", "--labels=wrong"), "9x9 px, the image has 40x48"),
        (("cells", "--model=nothing"), "no model 'nothing'"),
        (("none", "--labels=few"), "data.path=none does not exist"),
    ],
)
def test_what_cannot_be_scored_is_one_line(run, labelled, arguments, message):
    for folder in ("few", "wrong"):
        pathlib.Path(folder).mkdir()
        draw_labels(pathlib.Path(folder, "b_labels.tif"))
    for name in "abc":
        draw_labels(pathlib.Path("wrong", f"{name}_labels.tif"), (9, 9), 0)
    status, _, told = run("evaluate", *arguments)
    assert status == 2 and message in told and told.count("\n") == 1
