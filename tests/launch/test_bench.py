"""Claims about the bench: fair turns, medians, and words for what fails."""

import json
import pathlib
import subprocess
import sys

import pytest

from launch.bench import __main__ as bench
from launch.bench import duel, ours, skimage_peer

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
"""


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
    warm = duel._WARM_RUNS
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


def test_a_side_that_fails_ends_the_comparison(sides, capfd):
    with pytest.raises(RuntimeError, match="ended with 1"):
        duel.compare("x", "two_sides:ours", "two_sides:broken", 2, pause=0)
    assert "no such peer" in capfd.readouterr().err


def test_the_machine_is_described():
    about = json.loads(json.dumps(bench.machine()))
    assert about["cores"] >= 1 and about["versions"]["jax"] != "-"


def test_an_unknown_suite_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "launch.bench", "--suite=cpus"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "did you mean cpu" in done.stderr
    assert not pathlib.Path("out.json").exists()


def test_objects_are_those_of_scikit_image(tmp_path):
    for side in (ours, skimage_peer):  # the second compares
        _, about = side.objects(tmp_path, side=256, n_objects=64)
        assert about["objects"] == 64
