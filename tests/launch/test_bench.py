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
from launch.bench import duel, flops, material, ours, plot, skimage_peer

SIDES = """
import pathlib, time

def side(name):
    def make(folder, *, pause):
        print("a library talks")
        log = pathlib.Path(folder).parent / "turns.txt"
        def once():
            with log.open("a") as file:
                file.write(name)
            time.sleep(pause * (1 if name == "a" else 4))
        return once, {"program": name, "threads": 1}
    return make

ours, peer = side("a"), side("b")

def broken(folder, *, pause):
    raise ValueError("no such peer")

def two(folder):
    import os
    return lambda: 2.0 + ("MARK" in os.environ), {"threads": 1}
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
    assert row.about["peer"] == {"program": "b", "threads": 1}
    assert bench.line(row).startswith("| x | 0.0")


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


def test_a_run_of_many_steps_counts_for_each(sides):
    told = {"pause": 0.02, "warm": 0}
    row = duel.compare(
        "x", "two_sides:ours", "two_sides:peer", 1, each=10, **told
    )
    assert 0.002 < row.ours < row.peer < 0.05


def test_a_side_that_fails_ends_the_comparison(sides, capfd):
    with pytest.raises(RuntimeError, match="ended with 1"):
        duel.compare("x", "two_sides:ours", "two_sides:broken", 2, pause=0)
    assert "no such peer" in capfd.readouterr().err


def test_the_machine_is_described():
    about = json.loads(json.dumps(bench.machine()))
    assert about["cores"] >= 1 and about["versions"]["jax"] != "-"


def test_an_unknown_suite_is_one_line():
    done = run_bench("--suite=cpus")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "did you mean cpu" in done.stderr
    assert not pathlib.Path("out.json").exists()


def test_objects_are_those_of_scikit_image(tmp_path):
    for side in (ours, skimage_peer):  # the second compares
        _, about = side.objects(tmp_path, side=256, n_objects=64)
        assert about["objects"] == 64


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_sides_train_the_same_network(tmp_path, architecture):
    peer = torch_part("torch_peer")
    settings = {**TINY, "dtype": "float32", "architecture": architecture}
    ((once, own), (_, other)) = (
        side.train_step(tmp_path, **settings) for side in (ours, peer)
    )
    assert other["first_loss"] == pytest.approx(own["first_loss"], abs=1e-5)
    assert other["loss_after"] == pytest.approx(own["loss_after"], abs=1e-3)
    assert once() < own["first_loss"] and own["parameters"] > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_sides_predict_the_same(tmp_path, architecture):
    peer = torch_part("torch_peer")
    settings = {**TINY, "dtype": "float32", "architecture": architecture}
    once, _ = ours.predict(tmp_path, **settings)
    _, about = peer.predict(tmp_path, **settings)  # compares
    assert about["max_difference"] < 1e-3 and once().shape == (2, 32, 32, 1)


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


@pytest.mark.slow
def test_speed_of_a_large_slide_against_a_small_one():
    row = measured("scale", "scale_predict_slide")
    assert row["about"]["sides"] == [128, 256, 512]
    assert list(row["about"]["ours"]["mpx_per_s_between"]) == ["256"]
    assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])


def test_post_processing_is_a_share_of_the_whole():
    row = measured("cpu", "post_share")
    assert 0 < row["ours"] < 1 and row["peer"] == 1 / 3
    assert row["about"]["ours"]["objects"] > 50


def test_the_script_finds_what_the_command_finds():
    torch_part("torch_script")
    row = measured("cpu", "predict_cold_512")
    own, other = (row["about"][side]["objects"] for side in ("ours", "peer"))
    assert own > 50 and abs(own - other) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["cpu", "gpu"])
def test_all_rows_run(suite):
    torch_part("torch_peer")
    done = run_bench(f"--suite={suite}", "--tiny", "--runs=1")
    assert done.returncode == 0, done.stderr


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
