"""Claims about slides: by strips as at once, and again after a stop."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tifffile

from seg import config, tiles
from seg.images import formats, slide, slide_write, write
from seg.predict import bulk, bundle, inputs, predictor, streaming, strips
from seg.predict.slides import layer

NAMES = (
    "labels", "classes", "overlay", "probabilities", "uncertainty", "csv",
    "images",
)  # fmt: skip
SETTINGS = {"model": "a"}


class Stopped(Exception):
    pass


def draw(path, shape=(300, 90), channels=1):
    pixels = np.random.default_rng(7).integers(0, 255, (*shape, channels))
    pixels = pixels.astype(np.uint8)
    if path.suffix == ".zarr":
        slide_write.write_zarr(
            path, [pixels], pixels.shape, np.uint8, labels=False
        )
    else:
        tifffile.imwrite(
            path, pixels.squeeze(), tile=(16, 32), compression="zlib",
            photometric="rgb" if channels == 3 else "minisblack",
        )  # fmt: skip
    return path


def balanced(model, path):
    """A predictor that finds every class, a sigmoid's in a third of it."""
    found = predictor.Predictor(model, engine="jax").probabilities(path)
    logits = np.log(np.clip(found, 1e-6, 1 - 1e-6))
    if found.shape[-1] == 1:
        logits -= np.log1p(-np.clip(found, 1e-6, 1 - 1e-6))
    share = 0.67 if found.shape[-1] == 1 else 0.5
    bias = model.weights["head/bias"] - np.quantile(logits, share, (0, 1))
    weights = {**model.weights, "head/bias": bias.astype(np.float32)}
    return predictor.Predictor(
        dataclasses.replace(model, weights=weights), engine="jax"
    )


@pytest.fixture
def by_strips(monkeypatch):
    """Makes every tiled TIFF a slide, in strips of 64 rows."""
    monkeypatch.setattr(slide, "LARGE", 1)
    monkeypatch.setattr(streaming, "_PIXELS", 1)


def run(image, out, use, names=NAMES, settings=SETTINGS, **kwargs):
    images = inputs.expand([str(image)]).images
    return bulk.run(images, out, names, settings, lambda: use, **kwargs)


def files(folder):
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"model__n_classes": 3, "classes": ("background", "a", "b")},
        {"predict__separate": "watershed", "predict__tta": 2},
        {"predict__separate": "learned", "model__objects": "distance"},
        {"predict__separate": "learned", "model__objects": "interior",
         "model__n_classes": 3, "classes": ("background", "a", "b")},
        {"predict__diameter": 9.0, "data__diameter": 18.0},
        {"predict__pixel_size": 0.4, "data__pixel_size": 0.5},
        {"predict__separate": "learned", "model__objects": "distance",
         "data__diameter": 7.0},
        {"predict__connectivity": 1, "predict__gap": 1,
         "predict__fill_holes": True, "predict__min_area": (4,),
         "predict__overlap": 0.6},
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_a_slide_has_the_results_of_the_whole(
    tmp_path, make_bundle, by_strips, knobs, suffix
):
    path = draw(tmp_path / f"a{suffix}")
    use = balanced(make_bundle(**knobs), path)
    out = tmp_path / "out"
    outcome = run(path, out, use)
    assert (outcome.n_done, outcome.failures) == (1, [])
    whole = use(path, name="a", probabilities=True)
    assert len(whole.table) > 20
    labels = tifffile.imread(out / "a_labels.tif")
    np.testing.assert_array_equal(labels, whole.labels)
    classes = tifffile.imread(out / "a_classes.tif")
    np.testing.assert_array_equal(classes, whole.classes)
    found = tifffile.imread(out / "a_probabilities.tif")
    np.testing.assert_allclose(
        found.reshape(whole.probabilities.shape),
        whole.probabilities, atol=3e-5,
    )  # fmt: skip
    entropy = tifffile.imread(out / "a_uncertainty.tif")
    np.testing.assert_allclose(
        entropy, write.uncertainty(whole.probabilities), atol=2e-3
    )
    (about,) = formats.read_table(out / "images.csv")
    assert about["n_objects"] == len(whole.table)
    assert (about["rows"], about["cols"]) == whole.labels.shape
    mean = np.mean([row["probability"] for row in whole.table])
    assert about["doubt"] == pytest.approx(1 - mean, abs=3e-5)
    whole.table.to_csv(tmp_path / "whole.csv")
    rows = formats.read_table(out / "objects.csv")
    wanted = formats.read_table(tmp_path / "whole.csv")
    assert len(rows) == len(wanted)
    for row, other in zip(rows, wanted, strict=True):
        for name, value in other.items():
            if isinstance(value, float):
                near = 3e-5 if name == "probability" else 1e-6
                assert row[name] == pytest.approx(value, abs=near, rel=near)
            else:
                assert row[name] == value


def test_a_stopped_slide_goes_on_to_the_same_files(tmp_path, tiny, by_strips):
    path = draw(tmp_path / "a.tif")
    use = balanced(tiny, path)
    run(path, tmp_path / "whole", use)
    batches = []
    counted = predictor.Predictor(
        use.bundle, engine="jax", on_batch=lambda: batches.append(1)
    )
    run(path, tmp_path / "counted", counted)
    n_all = len(batches)
    batches.clear()
    for limit in (1, 2, 4, 7, 12, 20, 33, 1000):
        left = iter(range(limit))

        def check(left=left):
            if next(left, None) is None:
                raise Stopped

        try:
            run(path, tmp_path / "again", counted, check=check)
        except Stopped:
            assert limit < 1000
    assert files(tmp_path / "again") == files(tmp_path / "whole")
    # a strip is done once, but for the windows that reach into the next one
    assert len(batches) < 2.5 * n_all
    assert not list((tmp_path / "again" / ".seg").glob("*.work"))


@pytest.mark.parametrize(
    "place, name", [(strips.Strips, "put"), (layer.Components, "add")]
)
def test_a_strip_is_made_while_another_is_written_and_labelled(
    tmp_path, tiny, by_strips, monkeypatch, place, name
):
    """The first one's waits until the network is through with the second,
    and the network goes no farther."""
    path = draw(tmp_path / "a.tif")
    tops = tiles.starts(300, 32, 0.25)  # of rows of windows: a batch each
    first, second = (int((tops < row).sum()) for row in (64, 128))
    assert second > first + 2  # which run ahead in any case
    ran, through, seen = [], threading.Event(), []

    def on_batch():
        ran.append(1)
        if len(ran) == second:
            through.set()

    use = predictor.Predictor(tiny, engine="jax", on_batch=on_batch)
    method = getattr(place, name)

    def waiting(*args):
        assert through.wait(30)
        seen.append(len(ran))
        return method(*args)

    monkeypatch.setattr(place, name, waiting)
    streaming.segment(use, path, tmp_path / "work", {})
    assert second <= seen[0] <= second + 2 < len(ran) == len(tops)


@pytest.mark.parametrize("place", ["network", "disk", "check"])
def test_no_thread_outlives_a_slide_that_fails(
    tmp_path, tiny, by_strips, monkeypatch, place
):
    path = draw(tmp_path / "a.tif")
    before = set(threading.enumerate())
    put, no_stop = strips.Strips.put, lambda: None

    def fill(self, i, array):
        if place == "disk" and i == 2:
            raise Stopped
        put(self, i, array)

    monkeypatch.setattr(strips.Strips, "put", fill)
    use = predictor.Predictor(
        tiny,
        engine="jax",
        on_batch=stopping(6) if place == "network" else no_stop,
    )
    check = stopping(8) if place == "check" else no_stop
    with pytest.raises(Stopped):
        streaming.segment(use, path, tmp_path / "work", {}, check=check)
    assert set(threading.enumerate()) == before


def test_finished_slides_are_skipped_and_changed_ones_are_not(
    tmp_path, tiny, by_strips
):
    path = draw(tmp_path / "a.tif")
    use = predictor.Predictor(tiny, engine="jax")
    out = tmp_path / "out"
    assert run(path, out, use).n_done == 1
    before = files(out)
    assert run(path, out, use).n_skipped == 1
    assert files(out) == before
    (out / ".seg" / "a.csv").unlink()
    assert run(path, out, use).n_done == 1
    assert files(out) == before
    draw(path, (280, 90))
    assert run(path, out, use).n_done == 1
    assert tifffile.imread(out / "a_labels.tif").shape == (280, 90)


def test_maps_of_other_settings_are_not_taken(tmp_path, tiny, make_bundle,
                                              by_strips):  # fmt: skip
    path = draw(tmp_path / "a.tif")
    use = predictor.Predictor(tiny, engine="jax")

    left = iter(range(5))

    def check():
        if next(left, None) is None:
            raise Stopped

    with pytest.raises(Stopped):
        run(path, tmp_path / "out", use, check=check)
    other = predictor.Predictor(make_bundle(seed=3), engine="jax")
    run(path, tmp_path / "out", other, settings={"model": "b"})
    run(path, tmp_path / "fresh", other, settings={"model": "b"})
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def test_what_is_not_written_for_a_slide_is_said(
    tmp_path, tiny, by_strips, caplog
):
    path = draw(tmp_path / "a.tif")
    use = predictor.Predictor(tiny, engine="jax")
    with caplog.at_level(logging.WARNING):
        outcome = run(path, tmp_path / "out", use, ("labels", "crops"))
    assert outcome.n_done == 1 and "a_crops" in caplog.text
    assert run(path, tmp_path / "out", use, ("labels", "crops")).n_skipped


def test_a_damaged_slide_is_one_failure(tmp_path, tiny, by_strips):
    good, bad = draw(tmp_path / "a.tif"), tmp_path / "b.tif"
    bad.write_bytes(good.read_bytes()[:-3000])
    use = predictor.Predictor(tiny, engine="jax")
    outcome = run(tmp_path / "*.tif", tmp_path / "out", use)
    assert outcome.n_done == 1
    ((path, reason),) = outcome.failures
    assert path == bad and "truncated" in reason


def test_an_overlay_of_a_slide_fits_a_screen(
    tmp_path, tiny, by_strips, monkeypatch
):
    from PIL import Image

    monkeypatch.setattr(formats, "_OVERVIEW", 100)
    path = draw(tmp_path / "a.tif", (330, 97), channels=3)
    use = predictor.Predictor(tiny, engine="jax")
    run(path, tmp_path / "out", use, ("overlay",))
    with Image.open(tmp_path / "out" / "a_overlay.png") as picture:
        assert picture.size == (25, 83)  # every fourth pixel


def stopping(n):
    """A check that stops at its n-th call."""
    left = iter(range(n))

    def check():
        if next(left, None) is None:
            raise Stopped

    return check


def n_checks(path, out, use, names=NAMES):
    calls = []
    run(path, out, use, names, check=lambda: calls.append(1))
    return len(calls)


def test_results_half_replaced_are_nobodys(
    tmp_path, tiny, make_bundle, by_strips
):
    """Stopped between two files, they are of two models."""
    path, out = draw(tmp_path / "a.tif"), tmp_path / "out"
    first = balanced(tiny, path)
    other = balanced(make_bundle(seed=3), path)
    run(path, out, first)
    before = files(out)
    last = n_checks(path, tmp_path / "other", other)
    with pytest.raises(Stopped):
        run(path, out, other, settings={"model": "b"},
            check=stopping(last - 1))  # fmt: skip
    assert files(out)["a_labels.tif"] != before["a_labels.tif"]
    assert run(path, out, first).n_done == 1
    assert files(out) == before


def test_what_was_begun_for_another_file_is_not_taken(
    tmp_path, tiny, by_strips
):
    use = predictor.Predictor(tiny, engine="jax")
    one, two = tmp_path / "1" / "a.tif", tmp_path / "2" / "a.tif"
    for path, value in ((one, 0), (two, 255)):
        path.parent.mkdir()
        tifffile.imwrite(
            path, np.full((200, 64), value, np.uint8), tile=(16, 16)
        )
        os.utime(path, (0, 0))
    with pytest.raises(Stopped):
        run(one, tmp_path / "out", use, check=stopping(5))
    run(two, tmp_path / "out", use)
    run(two, tmp_path / "fresh", use)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["map", "probability"])
def test_a_strip_that_is_gone_is_made_again(tmp_path, tiny, by_strips, name):
    path, out = draw(tmp_path / "a.tif"), tmp_path / "out"
    use = balanced(tiny, path)
    with pytest.raises(Stopped):
        run(path, out, use, check=stopping(10))
    kept = sorted((out / ".seg" / "a.work" / name).iterdir())
    assert len(kept) >= 3
    kept[1].unlink()
    assert run(path, out, use).n_done == 1
    run(path, tmp_path / "fresh", use)
    assert files(out) == files(tmp_path / "fresh")


def test_overwrite_begins_anew(tmp_path, tiny, by_strips):
    path, out = draw(tmp_path / "a.tif"), tmp_path / "out"
    use = balanced(tiny, path)
    with pytest.raises(Stopped):
        run(path, out, use, check=stopping(9))
    for file in (out / ".seg" / "a.work" / "map").iterdir():
        file.write_bytes(b"damaged")
    assert run(path, out, use, overwrite=True).n_done == 1


def test_a_smaller_tile_for_want_of_memory_is_not_for_slides(
    tmp_path, tiny, by_strips
):
    path = draw(tmp_path / "a.tif")
    use = predictor.Predictor(tiny, engine="jax")
    run(path, tmp_path / "whole", use)
    use._tile //= 2
    run(path, tmp_path / "after", use)
    assert files(tmp_path / "after") == files(tmp_path / "whole")


def test_a_full_disk_ends_the_run_and_keeps_the_record(
    tmp_path, tiny, by_strips, monkeypatch
):
    path, out = draw(tmp_path / "a.tif"), tmp_path / "out"
    use = predictor.Predictor(tiny, engine="jax")
    run(path, out, use)

    def full(self, i, array):
        raise write.WriteError("cannot write it: the disk is full")

    with monkeypatch.context() as patch, pytest.raises(config.UserError):
        patch.setattr(strips.Strips, "put", full)
        run(path, out, use, overwrite=True)
    assert run(path, out, use).n_skipped == 1


def test_labels_never_replace_an_image(tmp_path, tiny, by_strips):
    """The input lies in the folder of the results, under their name; it is
    said before the network has worked on it."""
    path = draw(tmp_path / "a.zarr")
    batches = []
    use = predictor.Predictor(
        tiny, engine="jax", on_batch=lambda: batches.append(1)
    )
    before = predictor.as_pixels(path)
    with pytest.raises(config.UserError, match="not replaced"):
        run(path, tmp_path, use, ("omezarr",))
    assert not batches
    np.testing.assert_array_equal(predictor.as_pixels(path), before)
    out = tmp_path / "out"
    assert run(tmp_path, out, use, ("omezarr",)).n_done == 1
    assert run(path, out, use, ("omezarr",), overwrite=True).n_done == 1


def test_a_zarr_is_one_image_whatever_lies_in_it(tmp_path):
    (tmp_path / "in").mkdir()
    path = draw(tmp_path / "in" / "a.zarr")
    for text in (tmp_path / "in", tmp_path / "in" / "**" / "*", path):
        assert inputs.expand([str(text)]).images == [path]


def test_what_a_killed_process_left_is_swept(tmp_path, tiny, by_strips):
    path, out = draw(tmp_path / "a.tif"), tmp_path / "out"
    use = predictor.Predictor(tiny, engine="jax")
    run(path, out, use)
    before = files(out)
    (out / ".0123456789ab.tif").write_bytes(b"half")
    (out / ".0123456789ab.zarr").mkdir()
    (out / ".seg" / ".0123456789ab.json").write_text("{")
    (out / ".seg" / "a.work" / "map").mkdir(parents=True)
    assert run(path, out, use).n_skipped == 1
    assert files(out) == before
    assert {path.name for path in (out / ".seg").iterdir()} == {
        "a.json", "a.csv", "lock", "shared"
    }  # fmt: skip
    assert not list(out.glob(".*.zarr"))


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_files(tmp_path, make_bundle):
    """67 megapixels, SIGKILL at 60 % of the strips: two thirds are kept."""
    small, path = draw(tmp_path / "small.tif"), tmp_path / "a.tif"
    knobs = {"predict__tile": 256, "predict__min_area": (20,)}
    use = balanced(make_bundle(**knobs), small)
    bundle.save(use.bundle, tmp_path / "model")
    block = np.tile(tifffile.imread(small), (2, 6))[:512, :512]
    tifffile.imwrite(
        path, np.tile(block, (16, 17))[:8192], tile=(512, 512),
        compression="zlib", photometric="minisblack",
    )  # fmt: skip
    assert slide.is_slide(path)

    def start(out):
        return subprocess.Popen(
            [sys.executable, "-m", "seg", "predict", path, "--engine=jax",
             f"--model={tmp_path / 'model'}", f"--out={tmp_path / out}"],
        )  # fmt: skip

    assert start("whole").wait() == 0
    process = start("killed")
    maps = tmp_path / "killed" / ".seg" / "a.work" / "map"
    strip = streaming._PIXELS // 8704
    n_kept = round(0.6 * 8192 / strip)
    while not maps.is_dir() or len(list(maps.iterdir())) < n_kept:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in maps.iterdir()}
    assert not (tmp_path / "killed" / "a_labels.tif").exists()
    process = start("killed")
    while process.poll() is None and len(list(maps.iterdir())) <= len(kept):
        time.sleep(0.02)
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert process.wait() == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
