"""Claims about locks between processes, with processes that are killed."""

import subprocess
import sys
import threading

import pytest

from seg import locks

_HOLD = """
import pathlib, sys
from seg import locks
with locks.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/lock."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_lock_names_its_holder(tmp_path, holder):
    with (
        pytest.raises(locks.BusyError, match=f"^{holder.pid} on "),
        locks.held(tmp_path / "lock", wait=False),
    ):
        pass


def test_a_killed_holder_gives_the_lock_to_the_one_that_waits(tmp_path, holder):
    asked, got = threading.Event(), threading.Event()

    def wait():
        with locks.held(tmp_path / "lock", waiting=asked.set):
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert asked.wait(10)
    assert not got.wait(0.2)
    holder.kill()
    assert got.wait(10)
    thread.join()


def test_a_free_lock_is_taken_without_waiting(tmp_path):
    for _ in range(2):
        with locks.held(tmp_path / "lock", waiting=pytest.fail):
            pass
    with pytest.raises(FileNotFoundError), locks.held(tmp_path / "no" / "lock"):
        pass


def test_whether_a_lock_is_held_is_seen_without_a_trace(tmp_path, holder):
    path = tmp_path / "lock"
    before = path.read_bytes()
    assert locks.is_held(path) and path.read_bytes() == before
    holder.kill()
    holder.wait()
    assert not locks.is_held(path) and path.read_bytes() == before
    assert not locks.is_held(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_one_that_only_looks_keeps_nobody_from_a_lock(tmp_path):
    path, ends = tmp_path / "lock", threading.Event()
    path.touch()

    def look():
        while not ends.is_set():
            locks.is_held(path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(2000):
            with locks.held(path, wait=False):
                pass
    finally:
        ends.set()
        thread.join()
