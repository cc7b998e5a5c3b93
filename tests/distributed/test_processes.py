"""Claims about trainings of several processes, with two real ones.

They meet on the loopback, each with one CPU device, and share a workdir.
"""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from seg import config
from seg.train import checkpoint, mesh, step

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1200)]

N_STEPS = 40
PATIENCE_S = 400  # for what takes seconds on a machine that is not busy

KNOBS = {
    "data.tile": 32,
    "synthetic.n_train": 4,
    "synthetic.n_val": 1,
    "synthetic.n_test": 1,
    "synthetic.height": 64,
    "synthetic.width": 48,
    "synthetic.n_objects": 4,
    "model.width": 2,
    "model.depth": 1,
    "model.norm": "batch",
    "model.dropout": 0.1,
    "loss.terms": "binary_cross_entropy + lovasz_hinge",
    "optim.name": "sgd",
    "optim.learning_rate": 0.01,
    "optim.ema": 0.9,
    "train.batch_size": 4,
    "train.steps": N_STEPS,
    "train.log_every": 1,
    "train.eval_every": 10,
    "predict.tile": 32,
    "track.uri": "none",
}


# No YNNPACK: its convolutions round in another order for another batch, and a
# ReLU at 0 tips over. What is left agrees to float32's last digits.
_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.lower().endswith("_proxy")  # JAX warns of them
} | {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type="}


class Process:
    """One of the processes; all that it prints goes to a file."""

    def __init__(self, module, *args, output, **environment):
        self.output = output
        with output.open("w") as file:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, *args],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT | environment,
            )

    def wait(self):
        """The exit status."""
        return self._popen.wait(PATIENCE_S)

    def send(self, number):
        self._popen.send_signal(number)

    def text(self):
        return self.output.read_text()

    def close(self):
        self._popen.kill()
        self._popen.wait()


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """The experiment's file, and its tiles."""
    folder = tmp_path_factory.mktemp("pack")
    (folder / "tiny.py").write_text(
        "from seg import config\n"
        f"def get_config():\n"
        f"    return config.replace(config.Config(), {KNOBS!r})\n"
    )
    done = Process(
        "launch.prepare",
        f"--experiment={folder / 'tiny.py'}",
        f"--data.dir={folder / 'records'}",
        f"--pack={folder / 'tiles.npz'}",
        output=folder / "prepare.txt",
    )
    assert done.wait() == 0, done.text()
    return folder


def args(pack, workdir, *more):
    return [
        f"--experiment={pack / 'tiny.py'}",
        f"--tiles={pack / 'tiles.npz'}",
        f"--workdir={workdir}",
        *more,
    ]


def by_jax(port, index):
    """What tells a process who the others are."""
    return {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
    }


def by_skypilot(port, index):
    """The same as SkyPilot says it, on nodes that have a GPU."""
    return {
        "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": str(index),
        "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        "JAX_COORDINATOR_PORT": str(port),
    }


def _of(workdir, index):
    """A workdir of its own for each: hosts need not share a disk."""
    return workdir if not index else f"{workdir}-{index}"


@contextlib.contextmanager
def two(pack, workdir, *more, named=by_jax, second=()):
    """Two processes that train together; the second with words of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = pathlib.Path(workdir).parent
    started = [
        Process(
            "launch.train",
            *args(pack, _of(workdir, index), "--mesh.distributed", *more),
            *(second if index else ()),
            output=folder / f"process{index}.txt",
            JAX_COORDINATOR_BIND_ADDRESS=f"127.0.0.1:{port}",
            **named(port, index),
        )
        for index in (0, 1)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.close()


def alone(pack, workdir):
    """One process trains, or goes on, to the end."""
    done = Process(
        "launch.train",
        *args(pack, workdir),
        output=pathlib.Path(workdir).with_suffix(".txt"),
    )
    assert done.wait() == 0, done.text()
    return done


def until(process, text):
    """Waits until a process has logged this."""
    end = time.monotonic() + PATIENCE_S
    while text not in process.text():
        assert time.monotonic() < end, process.text()
        time.sleep(0.05)


def learnt(workdir):
    """(step, state) of the last checkpoint."""
    knobs = config.replace(config.Config(), KNOBS)
    state, _ = step.create(knobs, N_STEPS, mesh.make())
    found = checkpoint.Checkpoints(workdir / "checkpoints").restore(state)
    return found[:2]


def assert_learnt_alike(a, b):
    (at_a, state_a), (at_b, state_b) = learnt(a), learnt(b)
    assert at_a == at_b == N_STEPS
    flat_a, flat_b = (_flat(state) for state in (state_a, state_b))
    assert set(flat_a) == set(flat_b)
    for name in flat_a:
        np.testing.assert_allclose(
            flat_a[name], flat_b[name], rtol=1e-3, atol=1e-5, err_msg=name
        )


def _flat(state):
    import jax

    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


@pytest.fixture(scope="module")
def reference(pack):
    """The workdir of a training by one process."""
    alone(pack, pack / "one")
    return pack / "one"


@pytest.mark.parametrize("named", [by_jax, by_skypilot])
def test_two_processes_train_as_one_and_the_first_alone_writes(
    pack, reference, tmp_path, named
):
    with two(pack, tmp_path / "two", named=named) as processes:
        for process in processes:
            assert process.wait() == 0, process.text()
        first, second = (process.text() for process in processes)
    assert_learnt_alike(tmp_path / "two", reference)
    assert "2 x cpu" in first
    assert "model in" in first
    assert [line for line in second.splitlines() if "Gloo" not in line] == []
    log = (tmp_path / "two/log.txt").read_text()
    steps = re.findall(r"step (\d+)/", log)
    assert len(steps) == len(set(steps)) == N_STEPS
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == sorted(path.name for path in reference.iterdir())


@pytest.mark.parametrize("when", ["step 1/", "step 20/"])
def test_one_signal_stops_both_and_one_process_goes_on_to_the_same_end(
    pack, reference, tmp_path, when
):
    # after step 20 is the validation, which both finish or leave together
    with two(pack, tmp_path / "two") as processes:
        until(processes[0], when)
        processes[1].send(signal.SIGTERM)
        for process in processes:
            assert process.wait() == 33, process.text()
    at = checkpoint.Checkpoints(tmp_path / "two/checkpoints").latest()
    assert 0 < at < N_STEPS
    alone(pack, tmp_path / "two")
    assert_learnt_alike(tmp_path / "two", reference)


@pytest.mark.parametrize(
    ("victim", "number", "named"),
    [
        (0, signal.SIGKILL, "leader task was preempted/died"),
        (1, signal.SIGKILL, "Task 1"),
        (1, signal.SIGSTOP, "stopped sending heartbeats):\n1\n"),
    ],
)
def test_when_one_dies_or_hangs_the_other_ends_and_names_it(
    pack, tmp_path, victim, number, named
):
    more = ["--train.steps=1000000", "--train.eval_every=1000000"]
    with two(pack, tmp_path / "two", *more) as processes:
        until(processes[0], "step 1/")
        processes[victim].send(number)
        began = time.monotonic()
        other = processes[1 - victim]
        assert other.wait() not in (0, 33)
        seconds = time.monotonic() - began
    assert seconds < 180  # 60 of them are the patience with a silent one
    assert named in other.text()


def test_processes_with_other_settings_do_not_train_together(pack, tmp_path):
    other = ("--optim.learning_rate=0.02",)
    with two(pack, tmp_path / "w", second=other) as processes:
        for process in processes:
            assert process.wait() == 2, process.text()
            assert "start all of them by the same command" in process.text()
    assert not (tmp_path / "w/checkpoints").exists()


def test_what_the_first_refuses_ends_all(pack, tmp_path):
    with (
        checkpoint.lock(tmp_path / "two"),
        two(pack, tmp_path / "two") as processes,
    ):
        for process in processes:
            assert process.wait() == 2, process.text()
        first, second = (process.text() for process in processes)
    assert f"in use by process {os.getpid()}" in first
    assert "process 0 gave up" in second
