"""Checkpoints survive kills, full disks and rot, and say what is wrong."""

import logging
import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seg import config
from seg.train import checkpoint


def _tree(value):
    return {
        "params": {"kernel": jnp.full((3, 4), value, jnp.float32)},
        "half": jnp.full(5, value, jnp.bfloat16),
        "count": np.full((), value, np.int64),
    }


def _equal(left, right):
    same = jax.tree.map(
        lambda a, b: a.dtype == b.dtype and bool((a == b).all()), left, right
    )
    return all(jax.tree.leaves(same))


def _spawn(code, *args, **env):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | env,
        cwd=pathlib.Path(__file__).parents[2],
    )


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1, 2 and 3, each filled with its step."""
    saves = checkpoint.Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        saves.save(step, _tree(step), {"step": step, "note": "é"})
    return saves


def test_what_is_saved_comes_back_with_its_types_and_meta(tmp_path):
    tree = _tree(7) | {
        "key": jax.random.key(3),
        "empty": [jnp.zeros((0, 3)), np.zeros((2, 0), np.uint8)],
        "numbers": (3, 2.5, True, np.float32(1.5), None),
    }
    saves = checkpoint.Checkpoints(tmp_path, keep=2)
    meta = {"best_value": 0.5, "config": {"a": [1]}, "nan": float("inf")}
    saves.save(7, tree, meta)
    step, got, got_meta = checkpoint.Checkpoints(tmp_path, 2).restore(tree)
    assert step == 7 and got_meta == meta == saves.meta()
    assert got["numbers"] == tree["numbers"]
    assert [type(x) for x in got["numbers"]] == [
        type(x) for x in tree["numbers"]
    ]
    assert jax.random.key_data(got["key"]).tolist() == [0, 3]
    assert got["empty"][0].shape == (0, 3) and got["empty"][1].shape == (2, 0)
    assert _equal(_tree(7), {k: got[k] for k in _tree(7)})
    assert isinstance(got["count"], np.ndarray)
    assert isinstance(got["half"], jax.Array)


def test_a_model_with_its_optimiser_comes_back_bit_for_bit(tmp_path):
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)
    _, state = nnx.split((model, optimizer))
    saves = checkpoint.Checkpoints(tmp_path, keep=1)
    saves.save(1, state, {})
    shapes = jax.eval_shape(lambda: state)
    for template in (state, shapes):
        _, got, _ = saves.restore(template)
        assert jax.tree.structure(got) == jax.tree.structure(template)
        assert all(
            bool((a == b).all())
            for a, b in zip(
                jax.tree.leaves(state), jax.tree.leaves(got), strict=True
            )
        )


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    saves = checkpoint.Checkpoints(tmp_path, keep=2)
    assert saves.restore(_tree(0)) is None and saves.latest() is None
    assert saves.best_step() is None and saves.meta() is None
    for step in range(1, 6):
        saves.save(step, _tree(step), {}, best=step in (1, 2))
    assert saves.steps() == [2, 4, 5]
    assert saves.best_step() == 2 and saves.latest() == 5
    assert int(saves.restore(_tree(0), step=2)[1]["count"]) == 2
    assert saves.meta(3) is None
    with pytest.raises(
        config.UserError, match=r"no checkpoint of step 3.*2, 4"
    ):
        saves.restore(_tree(0), step=3)


def test_a_step_saved_again_is_replaced_and_stays_the_best(tmp_path):
    saves = checkpoint.Checkpoints(tmp_path, keep=2)
    saves.save(4, _tree(1), {}, best=True)
    saves.save(4, _tree(2), {})
    assert saves.best_step() == 4 and saves.steps() == [4]
    assert int(saves.restore(_tree(0))[1]["count"]) == 2


def test_going_on_from_an_older_step_drops_the_later_ones(saved):
    saved.restore(_tree(0), step=1)
    saved.save(2, _tree(20), {})
    assert saved.steps() == [1, 2]


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _largest(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


_ROT = {
    "flipped bit": lambda f: _flip(_largest(f / "state")),
    "truncated": lambda f: os.truncate(_largest(f / "state"), 10),
    "file gone": lambda f: (f / "state/_METADATA").unlink(),
    "flipped manifest": lambda f: (f / "manifest.json").write_text(
        (f / "manifest.json").read_text().replace("3", "2", 1)
    ),
    "manifest is no JSON": lambda f: os.truncate(f / "manifest.json", 30),
    "manifest gone": lambda f: (f / "manifest.json").unlink(),
    "manifest of bytes": lambda f: (f / "manifest.json").write_bytes(b"\xff"),
}


@pytest.mark.parametrize("rot", _ROT)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    rot, saved, caplog
):
    folder = saved.folder / "3"
    _ROT[rot](folder)
    caplog.set_level(logging.WARNING)
    with pytest.raises(config.UserError, match="3 is damaged"):
        checkpoint.Checkpoints(saved.folder, 3).restore(_tree(0), step=3)
    step, tree, meta = saved.restore(_tree(0))
    assert (step, meta["step"], int(tree["count"])) == (2, 2, 2)
    assert str(folder) in caplog.text and "damaged" in caplog.text
    saved.save(3, _tree(30), {})
    assert int(saved.restore(_tree(0))[1]["count"]) == 30


def test_when_every_checkpoint_is_damaged_none_is_left(saved, caplog):
    for step in (1, 2, 3):
        _flip(_largest(saved.folder / str(step) / "state"))
    assert saved.restore(_tree(0)) is None
    assert len(caplog.records) == 3


def test_another_model_is_refused_with_the_leaves_that_differ(saved):
    other = {
        "params": {"kernel": jnp.zeros((3, 5)), "bias": jnp.zeros(5)},
        "half": jnp.zeros(5, jnp.float32),
    }
    with pytest.raises(config.UserError) as caught:
        saved.restore(other)
    text = str(caught.value)
    for part in (
        "params/kernel is float32[3, 4] there, float32[3, 5] here",
        "half is bfloat16[5] there, float32[5] here",
        "params/bias float32[5] is only here",
        "count int64[] is only there",
    ):
        assert part in text
    assert "\n" not in text


def test_two_leaves_of_one_name_are_refused(tmp_path):
    tree = {"a": {"b": np.zeros(1)}, "a/b": np.ones(1)}
    with pytest.raises(ValueError, match="a/b"):
        checkpoint.Checkpoints(tmp_path, 1).save(1, tree, {})


def test_leftovers_of_a_killed_save_are_cleaned(saved):
    os.replace(saved.folder / "3", saved.folder / "3.old")
    (saved.folder / "4.part" / "state").mkdir(parents=True)
    (saved.folder / "0.gone").mkdir()
    again = checkpoint.Checkpoints(saved.folder, keep=9)
    assert again.restore(_tree(0))[0] == 2
    again.save(4, _tree(4), {})
    names = sorted(path.name for path in saved.folder.iterdir())
    assert names == ["1", "2", "3", "4"]


_SAVE_FOR_EVER = """
    import sys, numpy as np
    from seg.train import checkpoint
    saves = checkpoint.Checkpoints(sys.argv[1], keep=2)
    tree = {"big": np.zeros(1 << 20), "count": np.zeros((), np.int64)}
    found = saves.restore(tree)
    step = found[0] if found else 0
    while True:
        step += 1
        filled = {k: np.full_like(v, step) for k, v in tree.items()}
        saves.save(step, filled, {"step": step})
        print(step, flush=True)
"""


def test_killed_at_any_moment_the_last_committed_step_comes_back(tmp_path):
    rng = random.Random(0)
    template = {"big": np.zeros(1 << 20), "count": np.zeros((), np.int64)}
    before = 0
    for _ in range(3):
        process = _spawn(_SAVE_FOR_EVER, tmp_path)
        told = int(process.stdout.readline())
        assert told == before + 1
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate()
        told = max([told, *map(int, out.split())])
        step, tree, meta = checkpoint.Checkpoints(tmp_path, 2).restore(template)
        # the save may have been committed just before it could be told
        assert step in (told, told + 1) and meta == {"step": step}
        assert (tree["big"] == step).all() and tree["count"] == step
        before = step


_FILL = """
    import pathlib, resource, sys, numpy as np
    from seg import config
    from seg.train import checkpoint
    folder, limit = sys.argv[1], int(sys.argv[2])
    saves = checkpoint.Checkpoints(folder, keep=1)
    small = {"a": np.zeros(1000)}
    saves.save(1, small, {})
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    big = np.random.default_rng(0).normal(size=1 << 20)
    try:
        saves.save(2, {"a": big}, {})
    except config.UserError as error:
        print(error)
    print(saves.restore(small)[0], sorted(
        path.name for path in pathlib.Path(folder).iterdir()
    ))
"""


def _refused_for_space(process):
    out, err = process.communicate(timeout=60)
    lines = out.splitlines()
    assert len(lines) == 2, err
    assert "bytes needed" in lines[0] and "bytes free" in lines[0]
    assert int(lines[0].split("checkpoint, ")[1].split()[0]) > 8 << 20
    assert lines[1] == "1 ['1']"


def test_a_limit_on_files_leaves_the_older_checkpoint_intact(tmp_path):
    _refused_for_space(_spawn(_FILL, tmp_path, 1 << 20))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_leaves_the_older_checkpoint_intact(small_disk):
    _refused_for_space(_spawn(_FILL, small_disk, 0))


def test_a_disk_that_fills_up_during_the_save_is_reported_as_full(
    small_disk, monkeypatch
):
    saves = checkpoint.Checkpoints(small_disk, keep=1)
    saves.save(1, _tree(1), {})
    monkeypatch.setattr(saves, "_check_free", lambda need: None)
    big = np.random.default_rng(0).normal(size=1 << 20)
    with pytest.raises(config.UserError, match="bytes needed"):
        saves.save(2, {"a": big}, {})
    assert saves.restore(_tree(0))[0] == 1


_SHARDED = """
    import sys, jax, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec
    from seg.train import checkpoint
    saves = checkpoint.Checkpoints(sys.argv[1], keep=1)
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    host = {"a": np.arange(16.0).reshape(8, 2), "b": np.ones(3)}
    tree = jax.device_put(host, {"a": split, "b": whole})
    found = saves.restore(jax.tree.map(lambda x: x * 0, tree))
    if found:
        got = found[1]
        for name, want in (("a", split), ("b", whole)):
            n = got[name].ndim
            assert got[name].sharding.is_equivalent_to(want, n)
        assert (got["a"] == host["a"]).all() and (got["b"] == 1).all()
        print("restored on", len(jax.devices()))
    saves.save(1, tree, {})
"""


def test_a_state_moves_between_one_and_eight_devices(tmp_path):
    outputs = []
    for n in (8, 1, 8):
        flag = f"--xla_force_host_platform_device_count={n}"
        process = _spawn(_SHARDED, tmp_path, XLA_FLAGS=flag)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        outputs.append(out.strip())
    assert outputs == ["", "restored on 1", "restored on 8"]


_HOLD = """
    import sys
    from seg.train import checkpoint
    with checkpoint.lock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.readline()
"""


def test_a_workdir_belongs_to_one_process(tmp_path):
    folder = tmp_path / "new" / "run"
    with _spawn(_HOLD, folder) as process:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(config.UserError, match=f"process {process.pid} "),
            checkpoint.lock(folder),
        ):
            pass
        process.kill()
    with checkpoint.lock(folder) as held:
        assert held == folder
    with checkpoint.lock(folder):
        pass


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(config.UserError, match="cannot be written"),
        checkpoint.lock(tmp_path / "file" / "run"),
    ):
        pass


def test_importing_does_not_load_orbax():
    code = """
        import sys
        from seg.train import checkpoint
        print("orbax" in sys.modules, "mlflow" in sys.modules)
    """
    out, err = _spawn(code).communicate()
    assert out == "False False\n", err
