"""Graphs kept between processes: made once, whole, and never in the way."""

import os
import time

import pytest

from seg.predict.engine import graph_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "seg" / "graphs"


def refused():
    raise AssertionError("it is there already")


def test_a_graph_is_made_once(folder):
    assert graph_cache.get("a", lambda: b"graph") == b"graph"
    assert graph_cache.get("a", refused) == b"graph"
    assert graph_cache.get("b", lambda: b"other") == b"other"
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"half", b"x" * 32 + b"graph"])
def test_a_damaged_file_is_made_again(folder, damage):
    graph_cache.get("a", lambda: b"graph")
    (path,) = folder.iterdir()
    path.write_bytes(damage)
    assert graph_cache.get("a", lambda: b"graph") == b"graph"
    assert graph_cache.get("a", refused) == b"graph"


def test_the_one_unused_for_longest_goes(folder, monkeypatch):
    monkeypatch.setattr(graph_cache, "_N_KEPT", 2)
    for age, name in [(30, "a"), (20, "b")]:
        graph_cache.get(name, name.encode)
        (path,) = folder.glob(f"{name}-*")
        os.utime(path, (time.time() - age,) * 2)
    graph_cache.get("a", refused)  # used, and so younger than b
    graph_cache.get("c", b"c".upper)
    assert {path.name[0] for path in folder.iterdir()} == {"a", "c"}


def test_a_full_disk_stops_nobody(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert graph_cache.get("a", lambda: b"graph") == b"graph"
    assert not list(folder.iterdir())


def test_where_nothing_can_be_written_it_is_made_each_time(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert graph_cache.get("a", lambda: b"graph") == b"graph"
    assert graph_cache.get("a", lambda: b"again") == b"again"
