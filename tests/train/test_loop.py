"""Claims about the training story: exact resumption, stopping, the best.

The batches are drawn here, the network is real: two levels, width 2.
"""

import dataclasses
import functools
import json
import math
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from seg import config, normalize
from seg.train import checkpoint, loop, mesh, meter, step, stop, tracking

N_STEPS, EVAL_EVERY = 12, 5
KNOBS = {
    "model.width": 2,
    "model.depth": 1,
    "model.norm": "batch",
    "model.dropout": 0.1,
    "data.tile": 16,
    "optim.ema": 0.9,
    "optim.clip_norm": 0.0,
    "train.batch_size": 2,
    "train.log_every": 1,
    "train.augment": False,  # takes longest to compile
}


def settings(**changes):
    changes = {f"train.{name}": value for name, value in changes.items()}
    return config.replace(config.Config(), KNOBS | changes)


@functools.cache
def made():
    """A fresh state on the host and the step, compiled once."""
    state, train_step = step.create(settings(), N_STEPS, mesh.make())
    return jax.device_get(state), train_step


def batch_of(at, image=None):
    """The batch that leads from step `at` to the next; some 30 ms."""
    rng = np.random.default_rng(at)
    if image is None:
        image = rng.uniform(0, 255, (2, 16, 16, 1)).astype(np.float32)
    return {
        "image": image,
        "classes": (image[..., 0] > 128).astype(np.uint8),
        "stats": np.stack([normalize.measure(i) for i in image]),
        "weight": np.ones(2, np.float32),
        "ids": np.array([f"{at}@0,0", f"{at}@0,16"]),
    }


class History:
    """A tracker that keeps all that it is told."""

    def __init__(self):
        self.told = []

    def metrics(self, at, values):
        self.told.append((at, dict(values)))

    def of(self, name):
        return [(at, v[name]) for at, v in self.told if name in v]


def job(workdir=".", *, signals=None, **parts):
    """A Job whose score is 1/step; `best` lists when it was the best."""
    state, train_step = made()
    parts.setdefault("tracker", History())
    parts.setdefault("best", [])
    best = parts.pop("best")
    knobs = parts.pop("knobs", {})
    defaults = {
        "config": settings(**knobs),
        "workdir": pathlib.Path(workdir).absolute(),
        "devices": mesh.make(),
        "n_steps": N_STEPS,
        "eval_every": EVAL_EVERY,
        "state": jax.device_put(state, mesh.replicated(mesh.make())),
        "step": train_step,
        "batches": lambda at: (batch_of(s) for s in range(at, N_STEPS)),
        "evaluate": lambda state, check: {"val/dice": 1 / int(state["step"])},
        "on_best": lambda state, values: best.append(int(state["step"])),
        "signals": signals or stop.Signals(),
    }
    return loop.Job(**defaults | parts)


def saved(workdir=".", at=None):
    """(step, leaves by path, meta) of a checkpoint."""
    found = checkpoint.Checkpoints(pathlib.Path(workdir) / "checkpoints")
    at, tree, meta = found.restore(job().state, at)
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return at, {jax.tree_util.keystr(path): x for path, x in leaves}, meta


def assert_equal_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(leaves, losses) of a training that nothing disturbs."""
    folder, history = tmp_path_factory.mktemp("uninterrupted"), History()
    loop.train(job(folder, tracker=history))
    at, leaves, _ = saved(folder)
    assert at == N_STEPS
    return leaves, history.of("train/loss")


def test_a_training_logs_each_step_validates_and_keeps_the_best():
    history, best = History(), []
    course = loop.train(job(tracker=history, best=best))
    losses = history.of("train/loss")
    assert [at for at, _ in losses] == [*range(1, N_STEPS + 1)]
    assert all(math.isfinite(value) for _, value in losses)
    assert [at for at, _ in history.of("val/dice")] == [5, 10, 12]
    assert best == [5] and course.best_step == 5 and course.best == 1 / 5
    assert course.worse == 2 and course.done and course.seconds > 0
    found = checkpoint.Checkpoints("checkpoints")
    assert found.steps() == [5, 10, 12] and found.best_step() == 5
    assert found.meta() == dataclasses.asdict(course)


def test_a_complete_training_run_again_does_nothing():
    before = loop.train(job())
    history = History()
    again = loop.train(job(tracker=history, batches=None, evaluate=None))
    assert again == before and not history.told


@pytest.mark.parametrize("at", [0, 3, 5, 10])
def test_stopped_by_a_signal_it_saves_and_goes_on_bit_for_bit(
    uninterrupted, at
):
    def interrupted(start):
        for s in range(start, N_STEPS):
            if s == at:
                signal.raise_signal(signal.SIGTERM)
            yield batch_of(s)

    history = History()
    with (
        stop.Signals() as signals,
        pytest.raises(stop.Interrupted, match="SIGTERM"),
    ):
        loop.train(job(tracker=history, batches=interrupted, signals=signals))
    # the step that was under way is finished
    assert checkpoint.Checkpoints("checkpoints").latest() == at + 1
    loop.train(job(tracker=history))
    end, leaves, meta = saved()
    assert end == N_STEPS and meta["done"]
    assert_equal_bits(leaves, uninterrupted[0])
    assert history.of("train/loss") == uninterrupted[1]
    assert [at for at, _ in history.of("val/dice")] == [5, 10, 12]


@pytest.mark.parametrize("at", [1, 5, 6, 8])
def test_a_stop_between_two_log_points_leaves_no_mark(tmp_path, at):
    def interrupted(start):
        for s in range(start, N_STEPS):
            if s == at:
                signal.raise_signal(signal.SIGTERM)
            yield batch_of(s)

    knobs = {"log_every": 4}
    whole, parts = History(), History()
    loop.train(job(tmp_path / "whole", tracker=whole, knobs=knobs))
    told = {"tracker": parts, "knobs": knobs}
    with stop.Signals() as signals, pytest.raises(stop.Interrupted):
        loop.train(job(batches=interrupted, signals=signals, **told))
    loop.train(job(**told))
    assert parts.of("train/loss") == whole.of("train/loss")
    assert [at for at, _ in whole.of("train/loss")] == [4, 5, 8, 10, 12]


def test_a_validation_that_a_signal_cut_short_is_made_up_for():
    calls = []

    def evaluate(state, check):
        calls.append(int(state["step"]))
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        check()
        return {"val/dice": 0.5}

    history = History()
    with (
        stop.Signals() as signals,
        pytest.raises(stop.Interrupted, match="SIGINT"),
    ):
        loop.train(job(tracker=history, evaluate=evaluate, signals=signals))
    assert saved()[2]["validated"] == 0
    loop.train(job(tracker=history, evaluate=evaluate))
    assert calls == [5, 5, 10, 12]
    assert [at for at, _ in history.of("val/dice")] == [5, 10, 12]


def test_means_over_log_intervals_do_not_depend_on_a_kill():
    def killed(start):
        yield from (batch_of(s) for s in range(start, 8))
        raise KeyboardInterrupt

    knobs = {"log_every": 4, "checkpoint_every": 3}
    whole, history = History(), History()
    loop.train(job("whole", knobs=knobs, tracker=whole))
    with pytest.raises(KeyboardInterrupt):
        loop.train(job(knobs=knobs, tracker=history, batches=killed))
    assert checkpoint.Checkpoints("checkpoints").latest() == 6
    loop.train(job(knobs=knobs, tracker=history))
    # what was repeated is the same, so it stands once in a record by step
    assert dict(history.of("train/loss")) == dict(whole.of("train/loss"))
    steps = [at for at, _ in whole.of("train/loss")]
    assert steps == [3, 4, 5, 6, 8, 9, 10, 12]


def test_checkpoints_come_as_often_as_asked_and_old_ones_go():
    seen = []

    def watched(start):
        for s in range(start, N_STEPS):
            seen.append(checkpoint.Checkpoints("checkpoints").latest())
            yield batch_of(s)

    loop.train(job(knobs={"checkpoint_every": 2, "keep": 1}, batches=watched))
    assert seen == [None, None, 2, 2, 4, 5, 6, 6, 8, 8, 10, 10]
    assert checkpoint.Checkpoints("checkpoints").steps() == [5, 12]  # 5: best


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stops_the_run_and_names_the_tiles(value):
    image = np.ones((2, 16, 16, 1), np.float32)
    image[1, 3, 4] = value

    def spoiled(start):
        for s in range(start, N_STEPS):
            yield batch_of(s, image if s == 6 else None)

    history, best = History(), []
    broken = {"config": settings(log_every=4)}
    # an infinity passes measuring with a warning, and becomes NaN
    with (
        np.errstate(all="ignore"),
        pytest.raises(meter.NotFinite, match="is nan at step 7") as caught,
    ):
        loop.train(job(tracker=history, best=best, batches=spoiled, **broken))
    assert "nonfinite.json" in str(caught.value)
    about = json.loads(pathlib.Path("nonfinite.json").read_text())
    assert about["step"] == 7 and about["tiles"] == ["6@0,0", "6@0,16"]
    found = checkpoint.Checkpoints("checkpoints")
    assert found.steps() == [5] and found.best_step() == 5 and best == [5]
    assert all(np.isfinite(leaf).all() for leaf in saved()[1].values())
    assert all(math.isfinite(v) for _, v in history.of("train/loss"))


def test_no_checkpoint_is_written_of_a_state_that_is_not_finite():
    image = np.full((2, 16, 16, 1), np.nan, np.float32)

    def spoiled(start):
        yield from (batch_of(s, image) for s in range(start, N_STEPS))

    for knobs in ({"checkpoint_every": 1}, {}):
        with np.errstate(all="ignore"), pytest.raises(meter.NotFinite):
            loop.train(job(knobs=knobs | {"log_every": 100}, batches=spoiled))
        assert checkpoint.Checkpoints("checkpoints").steps() == []


NAN = math.nan


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("max", [0.5, NAN, 0.4, 0.6], [3, 12]),
        ("max", [NAN, 0.1, NAN, 0.1], [6]),
        ("min", [0.5, NAN, 0.4, 0.6], [3, 9]),
        ("min", [NAN, -math.inf, 0.1, NAN], [6]),
        ("max", [NAN] * 4, []),
    ],
)
def test_a_nan_never_wins_and_a_tie_changes_nothing(mode, scores, best):
    found, left = [], list(scores)
    course = loop.train(
        job(
            knobs={"mode": mode},
            eval_every=3,
            best=found,
            evaluate=lambda state, check: {"val/dice": left.pop(0)},
        )
    )
    assert found == best and not left
    if best:
        assert course.best_step == best[-1]
        assert checkpoint.Checkpoints("checkpoints").best_step() == best[-1]
        assert course.best == scores[best[-1] // 3 - 1]
    else:
        assert course.best is None


def test_a_checkpoint_that_names_no_monitor_keeps_its_best():
    parts = {"evaluate": lambda state, check: {"val/dice": 0.5}}
    loop.train(job(n_steps=5, **parts))
    found = checkpoint.Checkpoints("checkpoints")
    at, state, meta = found.restore(job().state)
    del meta["monitor"], meta["window"]  # of an older version
    found.save(at, state, meta | {"best": 0.7})
    best = []
    course = loop.train(job(changed=True, best=best, **parts))
    assert course.best == 0.7 and not best
    assert course.monitor == "val/dice max"


def test_patience_ends_a_training_that_gets_no_better(caplog):
    scores = [0.5, 0.4, 0.6, 0.6, 0.5, 0.9]
    left = list(scores)
    parts = {
        "knobs": {"patience": 2},
        "eval_every": 2,
        "evaluate": lambda state, check: {"val/dice": left.pop(0)},
    }
    with caplog.at_level("INFO", "seg"):
        course = loop.train(job(**parts))
    assert "val/dice in 2 validations: step 10 of 12" in caplog.text
    assert left == [0.9] and course.done
    assert course.best_step == 6 and saved()[0] == 10
    assert loop.train(job(**parts)) == course and left == [0.9]


def test_without_validation_the_last_weights_are_the_model():
    best = []
    course = loop.train(job(evaluate=None, best=best))
    assert best == [5, 10, 12] and course.best_step == 12
    assert checkpoint.Checkpoints("checkpoints").best_step() == 12


def test_a_monitor_that_no_validation_gives_is_refused():
    with pytest.raises(config.ConfigError, match="did you mean val/dice"):
        loop.train(job(knobs={"monitor": "val/dise"}))


def test_a_checkpoint_of_another_network_is_refused_with_its_leaves():
    loop.train(job())
    other = config.replace(settings(), {"model.width": 3})
    state, train_step = step.create(other, N_STEPS, mesh.make())
    with pytest.raises(config.UserError, match="another model") as caught:
        loop.train(job(config=other, state=state, step=train_step))
    assert "down/0/conv1/kernel" in str(caught.value).replace("']['", "/")
    assert saved()[0] == N_STEPS


def test_the_logged_rate_is_the_one_that_a_step_applies():
    """The cosine in arXiv:1907.03576's code never reached its optimiser."""
    knobs = config.replace(
        settings(),
        {
            "optim.name": "sgd", "optim.momentum": 0.0, "optim.ema": 0.0,
            "optim.learning_rate": 0.3, "optim.nesterov": False,
            "optim.cycles": 2, "optim.warmup_frac": 0.2,
        },
    )  # fmt: skip
    state, train_step = step.create(knobs, N_STEPS, mesh.make())
    applied = []

    def watched(state, batch):
        before = jax.device_get(state["params"])
        state, metrics = train_step(state, batch)
        moved = jax.tree.map(lambda a, b: a - b, state["params"], before)
        norm = np.sqrt(sum((d**2).sum() for d in jax.tree.leaves(moved)))
        applied.append(float(norm / metrics["grad_norm"]))
        return state, metrics

    history = History()
    loop.train(job(config=knobs, state=state, step=watched, tracker=history))
    logged = [rate for _, rate in history.of("train/learning_rate")]
    assert applied == pytest.approx(logged, rel=1e-2)
    assert applied[2:6] == sorted(applied[2:6], reverse=True)
    assert applied[6:] == sorted(applied[6:], reverse=True)
    assert applied[6] == pytest.approx(0.3, rel=1e-2)
    assert applied[11] < 0.1 * applied[6]


def test_each_cycle_ends_with_a_settled_state_whatever_stops_it():
    def interrupted(start):
        for s in range(start, N_STEPS):
            if s == 5:
                signal.raise_signal(signal.SIGTERM)
            yield batch_of(s)

    told = []

    def note(what):
        return lambda state, *_: told.append((what, int(state["step"])))

    parts = {
        "cycle_ends": [6, 12],
        "settle": lambda state, check: note("settle")(state) or state,
        "on_cycle": lambda state, k: note(f"cycle {k}")(state),
        "evaluate": lambda state, check: (
            note("score")(state) or {"val/dice": 0.5}
        ),
    }
    with stop.Signals() as signals, pytest.raises(stop.Interrupted):
        loop.train(job(batches=interrupted, signals=signals, **parts))
    first = [("settle", 5), ("score", 5), ("settle", 6), ("cycle 1", 6)]
    assert told == first
    loop.train(job(**parts))
    assert told == [
        *first,
        *first[2:],
        *[("settle", 10), ("score", 10)],
        *[("settle", 12), ("cycle 2", 12), ("score", 12)],
    ]


def test_a_score_of_averaged_weights_compares_with_such_alone():
    scores = [0.9, 0.5, 0.4]
    left, best = list(scores), []

    def settle(state, check):
        n = np.int32(int(state["step"]) > 5)
        return state | {"swa": {"n": n}}

    course = loop.train(
        job(
            best=best,
            settle=settle,
            step=lambda state, batch: made()[1](state | {"swa": None}, batch),
            evaluate=lambda state, check: {"val/dice": left.pop(0)},
        )
    )
    assert best == [5, 10] and course.best == 0.5 and course.averaged


# ---------------------------------------------------- in a process of its own


def child(workdir, hangs=False):
    """Trains with a spool, saying each step; what the tests below start."""
    folder = pathlib.Path(workdir)
    spool = tracking.JsonlTracker(
        folder / "spool.jsonl", name="child", experiment="x"
    )

    def batches(start):
        for s in range(start, N_STEPS):
            print(f"step {s}", flush=True)
            yield batch_of(s)

    def evaluate(state, check):
        if hangs:
            print("validating", flush=True)
            time.sleep(600)
        return {"val/dice": 1 / int(state["step"])}

    with stop.Signals() as signals:
        loop.train(
            job(
                folder,
                knobs={"checkpoint_every": 2},
                tracker=spool,
                batches=batches,
                evaluate=evaluate,
                signals=signals,
            )
        )


@pytest.fixture
def start():
    """start(workdir, **kwargs) -> a process that runs `child`."""
    started = []

    def call(workdir, **kwargs):
        program = (
            f"import runpy; child = runpy.run_path({__file__!r})['child']; "
            f"child({str(workdir)!r}, **{kwargs!r})"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


def wait_for(process, line):
    for told in process.stdout:
        if told.strip() == line:
            return
    raise AssertionError(f"ended with {process.wait()} before {line!r}")


def test_killed_at_any_step_it_goes_on_bit_for_bit(
    start, uninterrupted, tmp_path
):
    process = start(tmp_path)
    wait_for(process, f"step {random.randrange(3, N_STEPS)}")
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = checkpoint.Checkpoints(tmp_path / "checkpoints").latest()
    assert kept is not None and kept < N_STEPS
    child(tmp_path)
    end, leaves, meta = saved(tmp_path)
    assert end == N_STEPS and meta["done"]
    assert_equal_bits(leaves, uninterrupted[0])
    spool = tracking.JsonlTracker(
        tmp_path / "spool.jsonl", name="child", experiment="x"
    )
    history = History()
    history.told = tracking.history(spool)
    assert sorted(history.of("train/loss")) == uninterrupted[1]
    assert sorted(at for at, _ in history.of("val/dice")) == [5, 10, 12]


def test_a_second_signal_ends_the_process_at_once(start, tmp_path):
    process = start(tmp_path, hangs=True)
    wait_for(process, "validating")
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    began = time.monotonic()
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    assert time.monotonic() - began < 5
    at, leaves, _ = saved(tmp_path)
    assert at == 4
    assert all(np.isfinite(leaf).all() for leaf in leaves.values())
