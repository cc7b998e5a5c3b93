"""Claims about the bench: fair turns, medians, and words for what fails."""

import importlib
import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from launch.bench import __main__ as bench
from launch.bench import (
    commands,
    duel,
    flops,
    material,
    ours,
    parity,
    plot,
    skimage_peer,
    suites,
    table,
)
from seg import config as config_lib
from seg import flags as seg_flags
from seg.images import slide

SIDES = """
import os, pathlib, time

def side(name):
    def make(folder, *, pause):
        print("a library talks")
        log = pathlib.Path(folder).parent / "turns.txt"
        def once(n=1):
            with log.open("a") as file:
                file.write(name * n)
            time.sleep(n * pause * (1 if name == "a" else 4))
        return once, lambda: {
            "program": name,
            "threads": 1,
            "turns_so_far": len(log.read_text()),
        }
    return make

ours, peer = side("a"), side("b")

def broken(folder, *, pause):
    raise ValueError("no such peer")

def killed(folder, *, pause):
    return lambda: os._exit(9), dict

def two(folder):
    return lambda: 2.0 + ("MARK" in os.environ), lambda: {
        "device": os.environ["CUDA_VISIBLE_DEVICES"]
    }
"""
TINY = {"batch_size": 2, "side": 32, "width": 4}
ARCHITECTURES = ("unet", "unet_small")


def torch_part(name):
    """A module of the peer; its tests need PyTorch."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed (extra: bench)")
    return importlib.import_module(f"launch.bench.{name}")


def run_bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.bench", *arguments],
        capture_output=True,
        text=True,
    )


def measured(suite, row):
    """The one row of a tiny run."""
    out = pathlib.Path("rows.json")
    done = run_bench(
        f"--suite={suite}", f"--only={row}", "--tiny", "--runs=1",
        f"--out={out}", "--plot=rows.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"| {row} |" in done.stdout
    assert pathlib.Path("rows.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(out.read_text())
    assert found["machine"]["versions"]["seg"] != ""
    (row,) = found["rows"]
    assert row["ours"] > 0 and row["peer"] > 0
    return row


@pytest.fixture
def sides(tmp_path, monkeypatch):
    (tmp_path / "two_sides.py").write_text(SIDES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(duel, "_PAUSE_S", 0)
    return tmp_path


def test_sides_take_turns_and_medians_are_compared(sides):
    row = duel.compare("x", "two_sides:ours", "two_sides:peer", 4, pause=0.02)
    warm = 3
    turns = (sides / "turns.txt").read_text()
    assert turns == "a" * warm + "b" * warm + "ab" + "ba" + "ab" + "ba"
    assert 0.02 < row.ours < row.peer and row.unit == "s" and row.runs == 4
    assert 2 < row.ratio < 6 and row.ratio == row.peer / row.ours
    (least, most), _ = row.about["range"]
    assert least <= row.ours <= most
    # told after the last run
    told = {"program": "b", "threads": 1, "turns_so_far": len(turns)}
    assert row.about["peer"] == told


def test_work_per_second_keeps_the_ratio(sides):
    told = {"pause": 0.02, "work": 3.0, "unit": "Mpx/s"}
    row = duel.compare("x", "two_sides:ours", "two_sides:peer", 2, **told)
    assert row.ours > row.peer and row.unit == "Mpx/s"
    assert row.ratio == pytest.approx(row.ours / row.peer)


@pytest.mark.parametrize(("value", "ratio"), [("less", 2 / 3), ("more", 1.5)])
def test_what_the_sides_return_can_be_the_figure(sides, value, ratio):
    """Only ours has our environment."""
    row = duel.compare(
        "x", "two_sides:two", "two_sides:two", 1,
        value=value, unit="GB", warm=0, environment={"MARK": "1"},
    )  # fmt: skip
    assert (row.ours, row.peer, row.unit) == (3, 2, "GB")
    assert row.ratio == pytest.approx(ratio)


def test_a_run_is_as_many_calls_as_fill_a_while(sides):
    """And its seconds are those of one of them."""
    row = duel.compare(
        "x", "two_sides:ours", "two_sides:peer", 1,
        pause=0.01, warm=0, fill_s=0.2,
    )  # fmt: skip
    n = row.about["calls"]
    assert 10 <= n <= 20  # of the faster side
    turns = (sides / "turns.txt").read_text()
    assert turns == "a" * 5 + "b" * 5 + "a" * n + "b" * n
    assert 0.01 < row.ours < 0.03 < row.peer < 0.08


@pytest.mark.parametrize(
    ("named", "seen"), [("", "0"), ("3,5", "3"), ("MIG-1", "MIG-1")]
)
def test_both_sides_see_the_same_one_gpu(sides, monkeypatch, named, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    row = duel.compare(
        "x", "two_sides:two", "two_sides:two", 1, value="less", warm=0
    )
    assert row.about["ours"] == row.about["peer"] == {"device": seen}


@pytest.mark.parametrize(
    ("peer", "words"),
    [("broken", "ValueError: no such peer"), ("killed", "ended with 9")],
)
def test_a_side_that_fails_ends_the_comparison(sides, peer, words):
    with pytest.raises(duel.Failed, match=words):
        duel.compare("x", "two_sides:ours", f"two_sides:{peer}", 2, pause=0)


def row_of(ours, peer, **about):
    about = {"ours": ours, "peer": peer, "load_before": 0.0, **about}
    return duel.Row("x", 1.0, 2.0, "s", 2.0, 1, about)


@pytest.mark.parametrize(
    ("dtype", "loss", "agrees"),
    [
        ("float32", 1.00001, True),
        ("float32", 1.001, False),
        ("bfloat16", 1.001, True),
        ("bfloat16", 1.01, False),
        ("bfloat16", float("nan"), False),
    ],
)
def test_a_row_whose_sides_differ_by_more_than_rounding_fails(
    dtype, loss, agrees
):
    found = ({"found": {"first loss": value}} for value in (1.0, loss))
    row = row_of(*found, dtype=dtype)
    if agrees:
        about = parity.checked(row).about
        assert about["apart"]["first loss"] == pytest.approx(loss - 1)
        assert about["apart_at_most"]["first loss"] > loss - 1
    else:
        with pytest.raises(duel.Failed, match="in first loss"):
            parity.checked(row)


def test_arrays_that_differ_fail_too():
    row = row_of({}, {"apart": {"pixels": 0.02}})
    with pytest.raises(duel.Failed, match="in pixels"):
        parity.checked(row)


def test_a_line_shows_spread_types_memory_utilisation_and_load():
    sides = [
        {"computes_in": "bfloat16", "peak_memory_gb": 2.0, "parameters": 31e6},
        {"computes_in": "float32", "peak_memory_gb": 1.5, "program": "P",
         "threads": 2, "note": "8192 px: 3 s"},
    ]  # fmt: skip
    shown = table.line(
        row_of(
            *sides,
            what="training",
            range=[[0.9, 1.2], [2.0, 2.0]],
            model_flop_utilisation=[0.4, 0.2],
        )
    )
    assert shown == (
        "| x | training; U-Net of 31 M parameters; 8192 px: 3 s "
        "| bfloat16 / float32 | 1 (0.9 to 1.2) | 2 | s | **2.00** "
        "| 0.4 / 0.2 | 2 / 1.5 | 0.0 | P, 2 threads |"
    )
    assert table.HEAD[0].count("|") == shown.count("|")
    assert table.HEAD[1].count("|") == shown.count("|")


@pytest.fixture
def one_row_fails(monkeypatch):
    """A suite of three rows, of which the second one fails."""
    seen = []

    def good(name, options):
        seen.append(json.loads(text) if (text := read()) else None)
        return row_of({}, {}, range=[[1, 1], [2, 2]])

    def read():
        out = pathlib.Path("rows.json")
        return out.read_text() if out.exists() else ""

    def bad(name, options):
        raise duel.Failed("it broke")

    rows = {"first": good, "second": bad, "third": good}
    monkeypatch.setitem(suites.SUITES, "memory", rows)
    monkeypatch.setattr(bench, "_ALONE", set(rows))
    return seen


def test_a_row_that_fails_is_told_and_the_others_go_on(launch, one_row_fails):
    status, stdout, stderr = launch(
        "bench.__main__", "--suite=memory", "--out=rows.json"
    )
    assert status == seg_flags.SOME_FAILED
    assert stdout.count("| x |") == 2 and "second failed: it broke" in stderr
    found = json.loads(pathlib.Path("rows.json").read_text())
    assert len(found["rows"]) == 2
    assert found["failures"] == {"second": "it broke"}
    # written after each row
    before, after = one_row_fails
    assert before is None and len(after["rows"]) == 1
    assert after["failures"] == {"second": "it broke"}


def test_where_every_row_fails_it_is_bad_input(launch, one_row_fails):
    status, _, stderr = launch(
        "bench.__main__", "--suite=memory", "--only=second", "--out=rows.json"
    )
    assert status == seg_flags.BAD_INPUT
    assert "error: every row failed, as second: it broke" in stderr
    found = json.loads(pathlib.Path("rows.json").read_text())
    assert found["rows"] == [] and len(found["failures"]) == 1


@pytest.mark.parametrize(("load", "busy"), [(0.5, False), (0.7, True)])
def test_a_busy_machine_is_marked(
    launch, one_row_fails, monkeypatch, load, busy
):
    """From .3 processes a core on. Rows are chosen by how they begin."""
    monkeypatch.setattr("os.getloadavg", lambda: (load, 9.0, 9.0))
    monkeypatch.setattr("os.sched_getaffinity", lambda of: {0, 1})
    _, _, stderr = launch(
        "bench.__main__", "--suite=memory", "--only=f,third",
        "--out=rows.json",
    )  # fmt: skip
    warned = [line for line in stderr.splitlines() if "warning" in line]
    assert len(warned) == busy
    found = json.loads(pathlib.Path("rows.json").read_text())
    assert found["machine"]["busy"] == busy and len(found["rows"]) == 2


def test_the_machine_is_described():
    about = json.loads(json.dumps(bench.machine()))
    assert about["cores"] >= 1 and about["versions"]["jax"] != "-"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite=cpus"], "did you mean cpu"),
        (["--only=train_step,pridict_vs_torch_f32"], "predict_vs_torch_f32"),
        (["--suite=scale", "--side=8192"], "give 16384 or more"),
    ],
)
def test_a_wrong_flag_is_one_line(launch, arguments, words):
    status, _, stderr = launch("bench.__main__", *arguments)
    lines = [line for line in stderr.splitlines() if "warning" not in line]
    assert status == 2 and len(lines) == 1 and words in lines[0]


def test_slides_are_large_enough_to_be_slides():
    sides = suites.slides(suites.Options(), suites._SLIDE, suites._LARGEST)
    assert sides == [8192, 16384, 32768]
    assert all(side**2 > slide.LARGE for side in sides)
    smaller = suites.Options(side=16384)
    assert suites.slides(smaller, suites._SLIDE, 0) == [8192, 16384]
    with pytest.raises(config_lib.ConfigError, match="16384 or more"):
        suites.slides(suites.Options(side=12000), suites._SLIDE, 0)


def test_objects_are_those_of_scikit_image(tmp_path):
    for side in (ours, skimage_peer):  # the second compares
        _, tell = side.objects(tmp_path, side=256, n_objects=64)
        assert tell()["objects"] == 64
    columns = {"label", "area_px", "row", "col", "bbox_row0", "bbox_col1"}
    measures = {"mean_intensity", "probability", "eccentricity", "solidity"}
    assert columns | measures <= set(tell()["equal"])


@pytest.mark.parametrize("column", ["col", "bbox_row1", "mean_intensity"])
def test_objects_that_differ_in_one_column_are_refused(tmp_path, column):
    settings = {"side": 256, "n_objects": 64}
    ours.objects(tmp_path, **settings)
    found = dict(np.load(tmp_path / "found.npz"))
    found[column][7] += 1
    np.savez(tmp_path / "found.npz", **found)
    with pytest.raises(AssertionError, match=column):
        skimage_peer.objects(tmp_path, **settings)


def test_a_gpu_suite_without_a_gpu_is_one_line():
    done = run_bench("--suite=gpu")
    if done.returncode == 0:
        pytest.skip("there is a GPU")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the gpu suite needs a GPU")


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is not None, reason="PyTorch is there"
)
def test_without_the_peer_it_says_what_to_install():
    done = run_bench("--only=predict_vs_stardist", "--tiny")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: PyTorch, the peer, is not installed")


def compared(what, folder, **settings):
    """The row of both sides in this process, compared but not timed."""
    peer = torch_part("torch_peer")
    told = []
    for side in (ours, peer):
        once, tell = getattr(side, what)(folder, **TINY, **settings)
        once()
        told.append(tell())
    return parity.checked(row_of(*told, **settings))


@pytest.mark.parametrize("mode", ["", "aot_eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_sides_train_the_same_network(tmp_path, architecture, mode):
    row = compared(
        "train_step",
        tmp_path,
        dtype="float32",
        architecture=architecture,
        mode=mode,
    )
    assert row.about["apart"]["gradient norm"] < 1e-4
    assert row.about["apart"].keys() == {
        "first loss", "gradient norm", "loss of step 2", "loss of step 3"
    }  # fmt: skip
    own = row.about["ours"]
    assert own["found"]["loss of step 3"] < own["found"]["first loss"]
    assert own["parameters"] > 1e5
    assert ("aot_eager" in row.about["peer"]["program"]) == bool(mode)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_sides_predict_the_same(tmp_path, architecture, resident):
    row = compared(
        "predict",
        tmp_path,
        dtype="float32",
        architecture=architecture,
        resident=resident,
    )
    assert row.about["apart"]["probabilities"] < 1e-4
    assert row.about["ours"]["computes_in"] == "float32"
    engine = row.about["ours"]["engine"]
    assert engine == ("jax" if resident else "openvino")


def test_each_side_says_what_it_computes_in(tmp_path):
    """Not what it was asked for."""
    settings = {"dtype": "bfloat16", "resident": True}
    row = compared("predict", tmp_path, **settings)
    for side in ("ours", "peer"):
        assert row.about[side]["computes_in"] == "bfloat16"


def test_another_network_is_refused(tmp_path):
    peer = torch_part("torch_peer")
    settings = {**TINY, "dtype": "float32"}
    _, tell = ours.train_step(tmp_path, **settings)
    weights = dict(np.load(tmp_path / "weights.npz"))
    weights["merge/3/norm2/scale"] *= 1.05
    np.savez(tmp_path / "weights.npz", **weights)
    _, of_peer = peer.train_step(tmp_path, **settings)
    with pytest.raises(duel.Failed, match="the two sides differ"):
        parity.checked(row_of(tell(), of_peer(), dtype="float32"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("width", [4, 16])
def test_flops_are_those_that_pytorch_counts(architecture, width):
    networks = torch_part("torch_networks")
    import torch
    from torch.utils import flop_counter

    model = networks.UNet(architecture, width)
    with flop_counter.FlopCounterMode(display=False) as counted:
        model(torch.zeros(1, 1, 32, 32))
    found = flops.forward(
        ours.network("float32", width, architecture).model, 32
    )
    assert found == counted.get_total_flops()


def test_flops_and_parameters_of_the_full_networks_are_known():
    """The classic U-Net: 31.0 M parameters, about 109 GFLOP at 256x256."""
    model = ours.network("bfloat16", 64, "unet").model
    assert flops.forward(model, 256) == pytest.approx(109e9, rel=0.02)
    assert flops.forward(model, 512) == 4 * flops.forward(model, 256)


def test_utilisation_knows_the_device_or_says_nothing():
    assert flops.utilisation(989e12, 2.0, "NVIDIA H100 80GB HBM3") == 0.5
    assert flops.peak("NVIDIA H100 PCIe") == 756e12
    assert flops.peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert flops.utilisation(1.0, 1.0, "cpu") == "-"


def test_stardist_is_of_its_shape():
    networks = torch_part("torch_networks")
    import torch

    prob, dist = networks.StarDist()(torch.zeros(1, 1, 64, 96))
    assert prob.shape == (1, 1, 32, 48) and dist.shape == (1, 32, 32, 48)


def test_a_slide_is_tiled_and_repeats_its_picture(tmp_path, monkeypatch):
    import tifffile

    monkeypatch.setattr(material, "_PERIOD", 64)
    monkeypatch.setattr(material, "_TILE", 32)
    path = material.slide(tmp_path, 160)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].is_tiled and file.pages[0].shape == (160, 160)
        whole = file.asarray()
    base, truth = material.picture(64)
    np.testing.assert_array_equal(whole, np.tile(base, (3, 3))[:160, :160])
    assert base[truth].min() > 80 and base[~truth].max() < 120


def test_the_model_of_the_bench_finds_what_was_drawn(tmp_path):
    import seg

    found = seg.load(material.model(tmp_path, 4))(material.picture(128, 3)[0])
    truth = material.picture(128, 3)[1]
    inside = found.labels > 0
    assert 2 * (inside & truth).sum() / (inside.sum() + truth.sum()) > 0.9
    assert (tmp_path / "weights.npz").exists()


def test_peak_memory_is_that_of_the_command(tmp_path):
    report = tmp_path / "peak.txt"
    command = [sys.executable, "-m", "launch.bench.peak", str(report)]
    done = subprocess.run([*command, "predict"], capture_output=True, text=True)
    assert done.returncode == 2 and "no INPUT" in done.stderr
    assert 5e6 < int(report.read_text()) < 1e9


@pytest.mark.slow
def test_memory_of_a_large_slide_against_a_small_one():
    row = measured("memory", "memory_predict_slide")
    about = row["about"]
    assert about["difference_gb"] == row["ours"] - row["peer"]
    assert 0.05 < row["peer"] < 5 and row["ratio"] == row["peer"] / row["ours"]
    assert about["ours"]["note"].startswith("512 px: ")
    assert about["ours"]["note"].endswith(" Mpx/s")


@pytest.mark.slow
def test_speed_of_a_large_slide_against_a_small_one():
    row = measured("scale", "scale_predict_slide")
    about = row["about"]
    assert about["sides"] == [128, 256, 512]
    assert about["peer"]["note"].startswith("128 px: ")
    between, largest = about["ours"]["note"].split("; ")
    assert between.startswith("256 px: ") and largest.startswith("512 px: ")
    assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
    assert about["apart"]["foreground"] < 0.05


def test_post_processing_is_a_share_of_the_whole():
    row = measured("cpu", "post_share")
    assert 0 < row["ours"] < 1 and row["peer"] == 1 / 3
    assert row["about"]["ours"]["found"]["objects"] > 50


def test_the_script_finds_what_the_command_finds():
    torch_part("torch_script")
    row = measured("cpu", "predict_cold_512")
    assert row["about"]["ours"]["found"]["objects"] > 50
    assert row["about"]["apart"].keys() == {"objects", "pixels"}


def test_the_maps_of_the_script_are_those_of_the_predictor(tmp_path):
    script = torch_part("torch_script")
    settings = {**suites._TINY_FOLDER, "n_images": 1}
    told = []
    for side in (commands, script):
        once, tell = side.maps(tmp_path, **settings)
        once()
        told.append(tell())
    apart = parity.checked(row_of(*told)).about["apart"]
    assert apart.keys() == {"pixels"}
    assert 0.05 < np.load(tmp_path / "classes.npy").mean() < 0.95


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["cpu", "gpu"])
def test_all_rows_run(suite):
    torch_part("torch_peer")
    done = run_bench(f"--suite={suite}", "--tiny", "--runs=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("**") == 2 * len(suites.SUITES[suite])


def test_a_chart_has_bars_on_both_sides_of_one(tmp_path):
    """And room for long names and a single row."""
    machine = bench.machine()
    about = {"ours": {"device": "H1"}, "peer": {"program": "a peer " * 20}}
    rows = [
        duel.Row(f"row_{ratio}", 1.0, ratio, "s", ratio, 3, about)
        for ratio in (0.3, 1.0, 40.0)
    ]
    for shown in (rows, rows[:1]):
        plot.ratios(shown, machine, tmp_path / "chart.png")
        assert (tmp_path / "chart.png").stat().st_size > 5000
