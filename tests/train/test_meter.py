"""Claims about what is seen of a training while it runs."""

import fcntl
import json
import logging
import os
import pathlib
import pty
import struct
import subprocess
import sys
import termios
import time

import jax.numpy as jnp
import numpy as np
import pytest

from seg.train import meter


class History(list):
    """A tracker that keeps all that it is told."""

    def metrics(self, at, values):
        self.append((at, dict(values)))


def made(tracker=None, n_steps=100, start=0):
    return meter.Meter(
        n_steps,
        start,
        batch_size=4,
        learning_rate=lambda at: 0.1 / (at + 1),
        tracker=History() if tracker is None else tracker,
        workdir=pathlib.Path.cwd(),
    )


def values(loss, grad_norm=1.0):
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(grad_norm)}


def test_a_log_holds_the_mean_since_the_last_one():
    told = History()
    with made(told) as seen:
        for at, loss in enumerate((1.0, 2.0, 6.0), 1):
            seen.add(at, [], values(loss, 10 * loss))
        seen.log()
        seen.add(4, [], values(8.0))
        seen.log()
        seen.log()  # nothing new: nothing told
    (first, second) = told
    assert first[0] == 3 and second[0] == 4
    assert first[1]["train/loss"] == 3 and second[1]["train/loss"] == 8
    assert first[1]["train/grad_norm"] == 30
    assert first[1]["train/learning_rate"] == pytest.approx(0.1 / 3)
    names = {"train/loss", "train/grad_norm", "train/learning_rate"}
    rates = {"perf/tiles_per_second", "perf/data_wait_frac"}
    assert first[1].keys() == names | rates


def test_rates_count_waiting_for_data_but_no_pause():
    def slow():
        for at in range(4):
            time.sleep(0.05)
            yield at

    told, one = History(), values(1)
    began = time.monotonic()
    with made(told) as seen:
        for at in seen.waiting(slow()):
            seen.add(at + 1, [], one)
        time.sleep(0.5)
        seen.pause(0.5)  # a validation
        seen.log()
    seconds = time.monotonic() - began - 0.5
    ((_, found),) = told
    assert found["perf/tiles_per_second"] == pytest.approx(16 / seconds, 0.2)
    assert found["perf/tiles_per_second"] <= 16 / 0.2
    assert 0.2 / seconds <= found["perf/data_wait_frac"] <= 1


def test_costs_are_the_usual_speed_and_memory_that_was_really_taken():
    told = History()
    with made(told) as seen:
        assert seen.costs().keys() == {"perf/peak_memory_mib"}
        for at in range(1, 4):
            seen.add(at, [], values(1))
            seen.log()
        rates = [found["perf/tiles_per_second"] for _, found in told]
        assert seen.costs()["perf/tiles_per_second"] == np.median(rates)
        before = meter.peak_memory_mib()
        large = np.ones((256 + int(before)) << 17)  # that many MiB
        assert meter.peak_memory_mib() > before + 200
        del large


def test_waiting_passes_every_batch_on():
    with made() as seen:
        assert list(seen.waiting(iter("abc"))) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("loss", "grad_norm", "told"),
    [
        (np.nan, 1, "loss is nan at step 2"),
        (np.inf, 1, "loss is inf at step 2"),
        (1, -np.inf, "grad_norm is -inf at step 2"),
    ],
)
def test_the_first_step_that_is_not_finite_is_named(loss, grad_norm, told):
    history = History()
    with made(history) as seen:
        seen.add(1, ["a@0,0"], values(1))
        seen.add(2, np.array(["b@0,0", "c@1,2"]), values(loss, grad_norm))
        seen.add(3, ["d@0,0"], values(np.nan))
        with pytest.raises(meter.NotFinite, match=told):
            seen.log()
    about = json.loads(pathlib.Path("nonfinite.json").read_text())
    assert about["step"] == 2 and about["tiles"] == ["b@0,0", "c@1,2"]
    assert about["loss"] == str(np.float32(loss))
    assert not history


def test_without_a_terminal_it_tells_lines(caplog):
    with caplog.at_level(logging.INFO, "seg"), made(n_steps=20) as seen:
        seen.add(1, [], values(0.5))
        seen.note("val/dice", 0.875)
        seen.log()
    (line,) = caplog.messages
    assert line.startswith("step 1/20  loss 0.5000  val/dice 0.8750  tiles/s ")
    assert line.endswith(" min")


def test_on_a_terminal_it_shows_a_bar():
    program = (
        "import logging, pathlib\n"
        "from seg.train import meter\n"
        "class Nobody:\n"
        "    def metrics(self, at, values): pass\n"
        "import jax.numpy as jnp\n"
        "seen = meter.Meter(5, 2, batch_size=4, learning_rate=float,\n"
        "    tracker=Nobody(), workdir=pathlib.Path())\n"
        "with seen:\n"
        "    seen.note('val/dice', 0.5)\n"
        "    for at in (3, 4, 5):\n"
        "        seen.add(at, [], {'loss': jnp.float32(0.25)})\n"
        "        seen.log()\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 99, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", program], stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0, shown
    text = shown.decode()
    assert "5/5" in text and "loss=0.2500" in text and "val/dice=0.5" in text
    assert "tiles/s=" in text and "2/5" in text
