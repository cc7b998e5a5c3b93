"""`python -m launch.sweep`: real trainings, as few as will do."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

from seg.train import tracking
from tests.launch import sweep_cases


@pytest.fixture
def command(prepared, tmp_path, monkeypatch):
    """command(SWEEP, *arguments): a sweep as a process of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(prepared)

    def start(swept, *arguments, name="tiny_sweep.py"):
        file = tmp_path / name
        text = (prepared / "tiny.py").read_text()
        file.write_text(f"{text}\nSWEEP = {swept!r}\n")
        return subprocess.Popen(
            [
                sys.executable, "-m", "launch.sweep", f"--experiment={file}",
                f"--workdir={tmp_path / 'w'}", "--train.epochs=1",
                f"--track.uri=sqlite:///{tmp_path}/mlflow.db", *arguments,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return start


def _runs(tmp_path):
    client = tracking.upload.library().MlflowClient(
        f"sqlite:///{tmp_path}/mlflow.db"
    )
    (experiment,) = [
        e for e in client.search_experiments() if e.name != "Default"
    ]
    return {
        run.info.run_name: run
        for run in client.search_runs([experiment.experiment_id])
    }


@pytest.mark.slow
def test_a_sweep_from_end_to_end(command, tmp_path):
    swept = [{"model.width": 2}, {"model.width": 3, "data.tile": 48}]
    tiles = "--tiles=tiles.npz"
    child = command(swept, tiles)
    told, _ = child.communicate()
    assert child.returncode == 0, told
    assert "| width |" in told and "| done " in told
    runs = _runs(tmp_path)
    parent = runs.pop("w")
    assert set(runs) == {"width=2", "width=3,tile=48"}
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.params["model.width"] == name[6]
        assert {"val/dice", "train/loss"} <= set(run.data.metrics)
    best = parent.data.tags["sweep.best"]
    assert parent.info.status == "FINISHED" and best in runs
    assert parent.data.metrics["val/dice"] == pytest.approx(
        max(run.data.metrics["val/dice"] for run in runs.values())
    )
    names = {"table.csv", "trials.csv", "parallel.png", "curves.png",
             "compare.html"}  # fmt: skip
    assert names <= set(os.listdir(tmp_path / "w"))
    assert names <= set(os.listdir(_folder(parent)))

    again = command(swept, tiles)
    told, _ = again.communicate()
    assert again.returncode == 0 and "begins" not in told
    assert len(_runs(tmp_path)) == 3


def _folder(run):
    return run.info.artifact_uri.removeprefix("file://")


@pytest.mark.parametrize(
    ("swept", "words"),
    [
        (
            {"model.name": ["unet", "unett"]},
            "unknown model.name 'unett'; did you",
        ),
        (
            [{"data.layout": "stardist", "data.path": "gone.zip"}],
            "data.path=gone.zip does not exist",
        ),
    ],
)
def test_a_trial_that_cannot_begin_ends_the_sweep_before_it_does(
    command, tmp_path, swept, words
):
    child = command(swept)
    told, _ = child.communicate()
    assert child.returncode == 2
    assert told.startswith(f"error: SWEEP: {words}")
    assert not (tmp_path / "w").exists()


def _experiment(folder, swept):
    """A file of an experiment, with a SWEEP if there is one."""
    file = folder / "e.py"
    text = "from seg import config\ndef get_config(): return config.Config()\n"
    file.write_text(text + (f"SWEEP = {swept!r}" if swept else ""))
    return file


@pytest.mark.parametrize(
    ("swept", "arguments", "words"),
    [
        ({"model.width": [2]}, ["--model.width=3"], "SWEEP varies it"),
        ({"model.width": [2]}, ["--seeds=a"], "whole numbers"),
        ({"model.width": [2]}, ["--gpus=0,-1"], "give their numbers"),
        ({"model.width": [2]}, ["--mesh.distributed"], "is one process"),
        ({"model.widht": [2]}, [], "did you mean model.width"),
        (None, [], "has no SWEEP"),
        ([3], [], "each trial is a dict"),
        (5, [], "a dict of lists"),
        ({1: [2]}, [], "unknown knob 1; see --help"),
        ([{1: 2}], ["--model.width=3"], "unknown knob 1; see --help"),
    ],
)
def test_bad_input_is_one_line(launch, tmp_path, swept, arguments, words):
    file = _experiment(tmp_path, swept)
    code, _, told = launch("sweep.__main__", f"--experiment={file}", *arguments)
    assert code == 2 and words in told and told.count("\n") == 1


# the launcher itself never imports JAX, which says so; these tests' process did
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
def test_a_dry_run_lists_the_trials(launch, tmp_path):
    file = _experiment(tmp_path, sweep_cases.GRID)
    code, told, _ = launch(
        "sweep.__main__", f"--experiment={file}", "--dry_run", "--seeds=0,1"
    )
    assert code == 0 and len(told.splitlines()) == 8
    assert not (tmp_path / "runs").exists()


@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
def test_a_dry_run_finds_what_the_sweep_would_refuse(launch, tmp_path):
    file = _experiment(tmp_path, {"model.name": ["unet", "unett"]})
    code, _, told = launch(
        "sweep.__main__", f"--experiment={file}", "--dry_run"
    )
    assert code == 2 and "did you mean unet" in told


# ------------------------------------------------------------ long, and real


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_rerun_it_goes_on_where_it_was(command, tmp_path):
    swept, tiles = {"model.width": [2, 3]}, "--tiles=tiles.npz"
    more = "--train.epochs=40"
    child = command(swept, tiles, more)
    first = tmp_path / "w" / "width=2"
    while not list(first.glob("checkpoints/*/manifest.json")):
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.05)
    child.kill()
    child.communicate()
    child = command(swept, tiles, more)
    while "resuming at step" not in (first / "log.txt").read_text():
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.05)
    time.sleep(1)
    child.send_signal(signal.SIGTERM)
    told, _ = child.communicate()
    assert child.returncode == 33, told
    assert _runs(tmp_path)["w"].info.status == "KILLED"
    child = command(swept, tiles, more)
    told, _ = child.communicate()
    assert child.returncode == 0, told
    runs = _runs(tmp_path)
    assert set(runs) == {"w", "width=2", "width=3"}
    assert all(run.info.status == "FINISHED" for run in runs.values())


@pytest.mark.distributed
@pytest.mark.timeout(900)
def test_two_processes_share_a_sweep_and_its_parent(
    command, tmp_path, monkeypatch
):
    # two tasks of SLURM, say: what they start must not look for each other
    for name, value in (
        ("SLURM_JOB_ID", "7"), ("SLURM_STEP_NUM_TASKS", "2"),
        ("SLURM_NTASKS", "2"), ("SLURM_PROCID", "0"), ("SLURM_LOCALID", "0"),
        ("SLURM_STEP_NODELIST", "localhost"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    swept = {"model.width": [2, 3, 4, 5]}
    both = [command(swept, "--tiles=tiles.npz") for _ in range(2)]
    told = [child.communicate()[0] for child in both]
    assert [child.returncode for child in both] == [0, 0], told
    for width in swept["model.width"]:
        begun = f"width={width}: begins"
        assert sum(text.count(begun) for text in told) == 1
    assert all("begins" in text for text in told)
    runs = _runs(tmp_path)
    assert set(runs) == {"w", *(f"width={k}" for k in swept["model.width"])}
    assert runs["w"].data.tags["sweep.done"] == "4 of 4"
    assert runs["w"].info.status == "FINISHED"
    with (tmp_path / "w/table.csv").open() as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"done"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_settings_of_prediction_are_compared_on_one_training(command, tmp_path):
    swept = {"predict.threshold": [0.3, 0.6]}
    child = command(swept, "--tiles=tiles.npz", "--evaluate")
    told, _ = child.communicate()
    assert child.returncode == 0, told
    runs = _runs(tmp_path)
    assert set(runs) == {
        "w",
        "trainings/base",
        "threshold=0.3",
        "threshold=0.6",
    }
    for threshold in ("0.3", "0.6"):
        run = runs[f"threshold={threshold}"]
        assert run.data.params["predict.threshold"] == threshold
        assert run.data.tags["mlflow.parentRunId"] == runs["w"].info.run_id
        assert {"val/dice", "test/dice"} <= set(run.data.metrics)
        assert "train/loss" not in run.data.metrics
        assert run.info.status == "FINISHED"
    assert "train/loss" in runs["trainings/base"].data.metrics


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_and_a_trial_that_fails(command, tmp_path):
    swept = {
        "search": "tpe", "trials": 3, "optim.learning_rate": ("log", 1e-3, 0.1),
        "predict.tile": [32],
    }  # fmt: skip
    child = command(swept, "--tiles=tiles.npz")
    told, _ = child.communicate()
    assert child.returncode == 0, told
    assert len(_runs(tmp_path)) == 1 + 3 + 3
    child = command(
        [{"model.width": 2}, {"model.width": 3}],
        "--tiles=tiles.npz", f"--workdir={tmp_path / 'v'}",
        f"--train.start={tmp_path / 'nothing'}",
    )  # fmt: skip
    told, _ = child.communicate()
    assert child.returncode == 3 and told.count("failed: exit 2") == 2, told
