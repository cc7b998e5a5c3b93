"""`python -m launch.train`: killed, stopped, repeated, refused, air-gapped.

Every training here is the same, of 12 steps, from one pack; whatever happens
on the way, its last checkpoint and its losses are those of `undisturbed`.
"""

import functools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from seg import config, flags
from seg.data import records
from seg.train import checkpoint, mesh, step, tracking

N_STEPS = 12
# What an air-gapped node need not have.
ABSENT = (
    "tensorflow", "tensorflow_datasets", "array_record", "mlflow",
    "matplotlib", "safetensors", "tqdm", "imagecodecs", "pandas", "fastapi",
)  # fmt: skip
GAP = f"""
import runpy, sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {ABSENT!r}:
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
sys.argv[0] = "launch.train"
runpy.run_module("launch.train", run_name="__main__")
"""


class Training:
    """A training in a process of its own, in a folder."""

    def __init__(self, folder, *arguments, program=("-m", "launch.train")):
        self.folder = pathlib.Path(folder)
        self.workdir = self.folder / "work"
        self.folder.mkdir(exist_ok=True)
        self.told = self.folder / "told.txt"
        with self.told.open("w") as file:
            self._popen = subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def wait(self, seconds=250):
        return self._popen.wait(seconds)

    def until(self, sign, seconds=250):
        """Waits until sign() is true, while the process lives."""
        end = time.monotonic() + seconds
        while not sign():
            text = self.told.read_text()
            assert self._popen.poll() is None and time.monotonic() < end, text
            time.sleep(0.002)

    def until_step(self, at):
        self.until(lambda: f"step {at}/" in self.told.read_text())

    def send(self, number):
        self._popen.send_signal(number)

    def close(self):
        self._popen.kill()
        self._popen.wait()


@pytest.fixture
def training():
    """training(folder, *arguments) -> a Training, which ends with the test."""
    started = []

    def start(*args, **kwargs):
        started.append(Training(*args, **kwargs))
        return started[-1]

    yield start
    for each in started:
        each.close()


def arguments(prepared, tiles="tiles.npz", uri="jsonl:spool"):
    return (
        f"--experiment={prepared / 'tiny.py'}",
        f"--tiles={prepared / tiles}",
        f"--track.uri={uri}",
        "--workdir=work",
    )


@functools.cache
def fresh(text):
    """A state as the config of this text begins with."""
    return step.create(config.from_json(text), N_STEPS, mesh.make())[0]


def leaves(workdir):
    """{path: array} of the last checkpoint, which must be the last step."""
    found = checkpoint.Checkpoints(workdir / "checkpoints")
    at, tree, meta = found.restore(fresh((workdir / "config.json").read_text()))
    assert at == N_STEPS and meta["done"]
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def spooled(folder):
    """All that the one run in a spool's folder has told."""
    (path,) = folder.glob("spool/*/spool.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def history(folder):
    """{(metric, step): value}, each of which must stand once."""
    found = {}
    for record in spooled(folder):
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                assert (name, record["step"]) not in found
                if not name.startswith("perf/"):
                    found[name, record["step"]] = value
    return found


def assert_same(folder, undisturbed):
    ours, theirs = leaves(folder / "work"), leaves(undisturbed / "work")
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)
    wanted = history(undisturbed)
    assert {at for name, at in wanted if name == "train/loss"} == {
        *range(1, N_STEPS + 1)
    }
    assert history(folder) == wanted
    best = [
        json.loads((f / "work/bundle/model.json").read_text())
        for f in (folder, undisturbed)
    ]
    assert best[0]["files"] == best[1]["files"]  # sha256 of the weights


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """The folder of a training with TFDS records, from start to end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    told = [a for a in arguments(prepared) if not a.startswith("--tiles")]
    process = Training(folder, *told, f"--data.dir={prepared / 'data'}")
    try:
        assert process.wait() == 0, process.told.read_text()
    finally:
        process.close()
    return folder


@pytest.fixture(scope="module")
def stopped(prepared, tmp_path_factory):
    """The folder of a training that SIGTERM has stopped in mid-epoch."""
    process = Training(tmp_path_factory.mktemp("stopped"), *arguments(prepared))
    try:
        process.until_step(2)
        process.send(signal.SIGTERM)
        began = time.monotonic()
        status = process.wait()
        seconds = time.monotonic() - began
    finally:
        process.close()
    assert status == flags.STOPPED, process.told.read_text()
    assert seconds < 30
    last = process.told.read_text().splitlines()[-1]
    assert last.startswith("stopped: SIGTERM; saved in work")
    return process.folder


@pytest.fixture
def copied(stopped, tmp_path):
    """A copy of the stopped training, in the current folder."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_it_says_what_it_does_and_where_the_model_is(undisturbed):
    text = (undisturbed / "told.txt").read_text()
    assert "unet, " in text and "12 steps of 4 tiles, 4 a pass" in text
    lines = text.splitlines()
    assert "step 1/12  loss " in text and "step 12/12  loss " in text
    assert lines[-1].startswith("val/dice ")
    assert lines[-1].endswith("model in work/bundle")
    assert text.count("\n") < 25  # no library chatters


def test_stopped_in_mid_epoch_the_run_is_marked_and_saved(stopped):
    found = checkpoint.Checkpoints(stopped / "work" / "checkpoints")
    assert 2 <= found.latest() < N_STEPS
    assert spooled(stopped)[-1]["status"] == "KILLED"
    assert not (stopped / "work" / "done").exists()


def test_after_sigterm_the_same_command_gives_the_same_model(
    training, launch, prepared, copied, undisturbed
):
    process = training(copied, *arguments(prepared))
    assert process.wait() == 0
    assert "resuming at step" in process.told.read_text()
    assert_same(copied, undisturbed)
    told = "work: the training is complete, nothing to do\n"
    assert launch("train", *arguments(prepared)) == (0, told, "")
    assert_same(copied, undisturbed)


def test_after_sigkill_the_same_command_gives_the_same_model(
    training, prepared, tmp_path, undisturbed
):
    process = training(tmp_path, *arguments(prepared))
    process.until_step(random.randrange(4, 9))
    time.sleep(random.uniform(0, 0.1))
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert training(tmp_path, *arguments(prepared)).wait() == 0
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_any_time_again_and_again_it_gets_there(
    training, prepared, tmp_path, undisturbed
):
    first = training(tmp_path, *arguments(prepared))
    began = time.monotonic()
    first.until_step(1)
    start_s = time.monotonic() - began
    first.send(signal.SIGKILL)
    first.wait()
    for _ in range(8):
        process = training(tmp_path, *arguments(prepared))
        time.sleep(random.uniform(0.2, 1.5) * start_s)
        process.send(signal.SIGKILL)
        if process.wait() == 0:  # it was faster
            break
    process = training(tmp_path, *arguments(prepared))
    assert process.wait() == 0, process.told.read_text()
    assert_same(tmp_path, undisturbed)


def test_a_signal_while_it_starts_is_obeyed_too(training, prepared, tmp_path):
    process = training(tmp_path, *arguments(prepared))
    process.until((process.workdir / "lock").exists)
    process.send(signal.SIGINT)
    assert process.wait() == flags.STOPPED, process.told.read_text()
    assert "stopped: SIGINT" in process.told.read_text().splitlines()[-1]


def test_behind_an_air_gap_it_gives_the_same_model_and_uploads_later(
    training, prepared, tmp_path, undisturbed, monkeypatch
):
    process = training(tmp_path, *arguments(prepared), program=("-c", GAP))
    assert process.wait() == 0, process.told.read_text()
    assert_same(tmp_path, undisturbed)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/m.db")
    ((_, run_id),) = tracking.sync(tmp_path / "spool").items()
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/m.db")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "work"
    losses = client.get_metric_history(run_id, "train/loss")
    wanted = history(tmp_path)
    assert {(p.key, p.step): p.value for p in losses} == {
        key: value for key, value in wanted.items() if key[0] == "train/loss"
    }
    assert run.data.params["model.width"] == "2"


def one_line(answer, *texts):
    """Checks that a command was refused in one line."""
    status, out, err = answer
    assert (status, out) == (flags.BAD_INPUT, "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and err.splitlines()[-1] == lines[0]
    assert "Traceback" not in err
    for text in texts:
        assert text in lines[0], lines[0]


def test_changed_flags_are_refused_unless_allowed(launch, prepared, copied):
    told = arguments(prepared)
    changed = "--optim.learning_rate=0.02"
    one_line(
        launch("train", *told, changed),
        "another config (optim.learning_rate: 0.01 -> 0.02)",
        "--train.resume_changed",
    )
    status, out, err = launch("train", *told, changed, "--train.resume_changed")
    assert status == 0 and "model in work/bundle" in out
    assert "resuming at step" in err


def test_changed_data_are_refused_unless_allowed(launch, prepared, copied):
    data = records.open_pack(prepared / "tiles.npz")
    data.digest = "changed"
    records.pack(data, data.config, "other.npz")
    told = arguments(prepared)
    other = [a for a in told if not a.startswith("--tiles")]
    one_line(
        launch("train", *other, "--tiles=other.npz"),
        "other data",
        "now changed",
        "--train.resume_changed",
    )


def test_a_checkpoint_of_another_network_is_refused(launch, prepared, copied):
    told = *arguments(prepared), "--train.resume_changed"
    one_line(
        launch("train", *told, "--model.width=3"), "another model", "kernel"
    )
    status, _, err = launch("train", *arguments(prepared))
    assert status == 0 and "resuming at step" in err


def test_a_workdir_in_use_is_refused(launch, prepared):
    with checkpoint.lock("work"):
        one_line(
            launch("train", *arguments(prepared)),
            f"work: in use by process {os.getpid()}",
        )


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--workdir=/proc/run", "/proc/run: cannot be written"),
        ("--data.tile=33", "choose 32 or 34"),
        ("--tiles=absent.npz", "no pack at absent.npz"),
        ("--tiles=", "not prepared"),
        ("--track.uri=mlruns", "file store"),
        ("--track.uri=htp://x", "did you mean http"),
        ("--train.monitor=val/dise", "did you mean val/dice"),
        ("--model.name=unnet", "did you mean unet"),
    ],
)
def test_what_cannot_run_is_one_line(launch, prepared, flag, text):
    one_line(launch("train", *arguments(prepared), flag), text)
    assert not pathlib.Path("work/checkpoints").exists()


def test_a_loss_that_explodes_is_status_2_and_names_the_tiles(launch, prepared):
    told = *arguments(prepared), "--optim.name=sgd", "--optim.clip_norm=0"
    answer = launch("train", *told, "--optim.learning_rate=1e30")
    one_line(answer, "its tiles are listed in work/nonfinite.json")
    about = json.loads(pathlib.Path("work/nonfinite.json").read_text())
    assert len(about["tiles"]) == 4 and "@" in about["tiles"][0]
    assert spooled(pathlib.Path())[-1]["status"] == "FAILED"
    assert not checkpoint.Checkpoints("work/checkpoints").steps()
