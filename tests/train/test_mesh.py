"""Claims about devices: eight train as one, and whose flags count.

Run as a program, this file trains and writes what it learnt to a file.
"""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from seg import config, normalize
from seg.train import mesh, step

EIGHT = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
)
N_STEPS = 3

KNOBS = {
    "model.width": 4,
    "model.depth": 1,
    "model.n_classes": 3,
    "model.norm": "batch",
    "model.dropout": 0.1,
    "classes": ("background", "a", "b"),
    "loss.terms": "cross_entropy + lovasz_softmax",
    # adam would blow a rounding of a gradient near 0 up to a whole step
    "optim.name": "sgd",
    "optim.learning_rate": 0.05,
    "optim.ema": 0.9,
    "train.batch_size": 8,
    "augment.rotate": 0.5,
    "augment.blur": 0.5,
}


def batch_at(at):
    """8 tiles of 3 classes, some pixels not annotated, padding at the end."""
    rng = np.random.default_rng(at)
    image = rng.integers(0, 60, (8, 32, 32, 1)).astype(np.uint8)
    classes = rng.integers(0, 3, (8, 4, 4)).repeat(8, 1).repeat(8, 2)
    image += (80 * classes[..., None]).astype(np.uint8)
    stats = np.stack([normalize.measure(plane) for plane in image])
    weight = np.float32(np.arange(8) < 8 - at)  # the last ones are padding
    classes = classes.astype(np.uint8)
    classes[:, :2] = 255
    return {
        "image": image,
        "classes": classes,
        "stats": stats,
        "weight": weight,
    }


def train():
    """What is learnt in a few steps, by name; and the devices it took."""
    knobs = config.check(config.replace(config.Config(), KNOBS))
    devices = mesh.make()
    state, train_step = step.create(knobs, N_STEPS, devices)
    losses = []
    for at in range(N_STEPS):
        batch = mesh.put(devices, batch_at(at))
        state, metrics = train_step(state, batch)
        losses.append(metrics["loss"])
    found = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    n_shards = len(batch["image"].sharding.device_set)
    return found | {"losses": np.stack(losses), "n_shards": n_shards}


def start(*args, **environment):
    return subprocess.run(
        [sys.executable, *args],
        env=os.environ | environment,
        text=True,
        capture_output=True,
    )


def test_eight_devices_train_as_one_does(tmp_path):
    done = start(__file__, str(tmp_path / "eight.npz"), XLA_FLAGS=EIGHT)
    assert done.returncode == 0, done.stderr
    eight, one = np.load(tmp_path / "eight.npz"), train()
    assert eight["n_shards"] == 8
    assert set(eight) == set(one)
    for name in set(one) - {"n_shards"}:
        size = np.abs(one[name]).max(initial=0)
        np.testing.assert_allclose(
            eight[name], one[name], atol=1e-4 * size + 1e-7, err_msg=name
        )


def test_a_batch_that_cannot_be_shared_out_is_refused():
    code = (
        "from seg import config; from seg.train import mesh, step\n"
        "knobs = config.replace(config.Config(), {'train.batch_size': 6})\n"
        "step.create(knobs, 1, mesh.make())"
    )
    done = start("-c", code, XLA_FLAGS=EIGHT)
    assert "ConfigError" in done.stderr
    assert "train.batch_size=6" in done.stderr
    assert "8 devices" in done.stderr


# ------------------------------------------------------------------- arrays
def test_a_batch_is_cut_along_its_samples():
    devices = mesh.make()
    batch = mesh.put(devices, batch_at(0))
    for name, array in batch_at(0).items():
        np.testing.assert_array_equal(batch[name], array)
        assert batch[name].sharding == mesh.by_sample(devices)


def test_a_lone_process_joins_nobody(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    mesh.start_distributed()
    assert jax.process_count() == 1


@pytest.mark.parametrize(
    ("n", "index", "match"),
    [
        (None, "0", "JAX_NUM_PROCESSES=''"),
        ("2", "one", "JAX_PROCESS_ID='one'"),
        ("2", "2", "below JAX_NUM_PROCESSES=2"),
    ],
)
def test_a_wrong_environment_is_refused(monkeypatch, n, index, match):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_PROCESS_ID", index)
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    if n:
        monkeypatch.setenv("JAX_NUM_PROCESSES", n)
    with pytest.raises(config.ConfigError, match=match):
        mesh.start_distributed()


def find(**environment):
    """What a process that must have others finds."""
    code = (
        "from seg import config; from seg.train import mesh\n"
        "import jax\n"
        "try:\n    mesh.start_distributed(required=True)\n"
        "except config.ConfigError as error:\n    print(error)\n"
        "else:\n    print(jax.process_index(), jax.process_count())"
    )
    done = start("-c", code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_who_must_have_others_says_what_would_name_them():
    found = find()
    assert "mesh.distributed: nothing here names the other" in found
    assert "JAX_COORDINATOR_ADDRESS" in found
    assert "srun" in found


def test_the_nodes_of_skypilot_are_joined_where_others_are_required():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    node = {
        "SKYPILOT_NODE_IPS": "127.0.0.1\n",
        "SKYPILOT_NUM_NODES": "1",
        "SKYPILOT_NODE_RANK": "0",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "JAX_COORDINATOR_PORT": port,
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
    }
    assert find(**node) == "0 1\n"
    assert "below SKYPILOT_NUM_NODES=1" in find(
        **node | {"SKYPILOT_NODE_RANK": "1"}
    )


def test_alone_a_process_is_the_first():
    done = []
    mesh.by_first(lambda: done.append(True))
    assert done == [True]
    with pytest.raises(ZeroDivisionError):
        mesh.by_first(lambda: 1 / 0)


if __name__ == "__main__":
    # XLA's own convolutions, as in the tests' process: YNNPACK's round in
    # another order for other shapes, and a ReLU at 0 tips over
    np.savez(sys.argv[1], **train())
