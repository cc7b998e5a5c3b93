"""Claims about XLA's flags, memory and cache: the user's own always win."""

import os
import subprocess
import sys

import jax
import jaxlib
import pytest

from seg import compiler

YNN = "--xla_cpu_experimental_ynn_fusion_type"
EIGHT = "--xla_force_host_platform_device_count=8"


def flags_after(monkeypatch, before, version="0.10.2", **kwargs):
    monkeypatch.setattr(jaxlib, "__version__", version)
    if before is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", before)
    compiler.configure(**kwargs)
    return os.environ["XLA_FLAGS"].split()


def test_the_users_flags_are_kept(monkeypatch):
    found = flags_after(monkeypatch, f"{EIGHT} --xla_dump_to=/x")
    assert found[:2] == [EIGHT, "--xla_dump_to=/x"]
    assert [flag.split("=")[0] for flag in found[2:]] == [YNN]


def test_the_users_value_of_a_flag_wins(monkeypatch):
    for mine in (f"{YNN}=NONE", "--xla_gpu_deterministic_ops=false"):
        found = flags_after(monkeypatch, mine, deterministic=True)
        assert mine in found
        names = [flag.split("=")[0] for flag in found]
        assert len(set(names)) == len(names) == 2


def test_a_flag_whose_name_only_begins_alike_is_another(monkeypatch):
    found = flags_after(monkeypatch, f"{YNN}_other=1")
    assert len(found) == 2


def test_configuring_twice_is_configuring_once(monkeypatch):
    once = flags_after(monkeypatch, None, deterministic=True)
    twice = flags_after(monkeypatch, " ".join(once), deterministic=True)
    assert once == twice


@pytest.mark.parametrize("version", ["0.9.2", "0.11.0", "0.100.0"])
@pytest.mark.parametrize("takes", [True, False])
def test_an_untried_jaxlib_gets_no_flag_that_aborts_it(
    monkeypatch, version, takes
):
    monkeypatch.setattr(compiler, "_takes", lambda flag: takes)
    found = flags_after(monkeypatch, None, version)
    assert [flag.split("=")[0] for flag in found] == [YNN] * takes


def test_what_jaxlib_takes_is_found_out():
    assert compiler._takes(compiler._CPU_FLAG)
    assert not compiler._takes("--xla_no_such_flag=1")


def test_a_file_of_flags_is_left_alone(monkeypatch, tmp_path):
    file = str(tmp_path / "flags")
    assert flags_after(monkeypatch, file, deterministic=True) == [file]


def test_determinism_is_asked_for(monkeypatch):
    monkeypatch.setattr(compiler, "_takes", lambda flag: False)
    found = flags_after(monkeypatch, None, "0.11.0", deterministic=True)
    assert found == ["--xla_gpu_deterministic_ops=true"]


@pytest.mark.parametrize(
    "place, wanted",
    [
        ({"XDG_CACHE_HOME": "{}/xdg"}, "{}/xdg/seg/jax/"),
        ({"XDG_CACHE_HOME": "", "HOME": "{}/me"}, "{}/me/.cache/seg/jax/"),
        ({"XDG_CACHE_HOME": "/dev/null"}, "None"),
    ],
)
def test_where_programs_are_kept(tmp_path, monkeypatch, place, wanted):
    for name, value in place.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        compiler.enable_cache()
        found = jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    if found:
        found = found.removesuffix(compiler._kind())
    assert str(found) == wanted.format(tmp_path)


def test_jaxs_own_variable_says_what_is_worth_keeping(monkeypatch):
    name = "jax_persistent_cache_min_compile_time_secs"
    monkeypatch.setenv(name.upper(), "7")
    before = getattr(jax.config, name)
    try:
        jax.config.update(name, 7.0)  # as JAX does when it starts
        compiler.enable_cache()
        assert getattr(jax.config, name) == 7.0
    finally:
        jax.config.update(name, before)


def test_the_cache_of_the_environment_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    assert before == os.environ["JAX_COMPILATION_CACHE_DIR"]
    compiler.enable_cache()
    assert jax.config.jax_compilation_cache_dir == before


TELLS = """
import os, sys
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
from seg import compiler
compiler.restart()
"""


def started(tmp_path, **environment):
    script = tmp_path / "tells.py"
    script.write_text(TELLS)
    process = subprocess.run(
        [sys.executable, "-W", "error", script, "a b", "--c"],
        env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split(maxsplit=2) for line in process.stdout.splitlines()]


def test_a_process_starts_again_once_in_place_with_its_arguments(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if not compiler.environment():
        pytest.skip("not glibc 2.35 or later")
    first, second = started(tmp_path)
    assert first[1:] == ["None", "['a b', '--c']"]
    wanted = compiler.environment()["GLIBC_TUNABLES"]
    assert second == [first[0], wanted, first[2]]
    assert "glibc.malloc.hugetlb=1" in wanted.split(":")


def test_memory_is_kept_from_step_to_step(monkeypatch):
    # a gigabyte taken anew each step is a page fault for each page of it
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if not compiler.environment():
        pytest.skip("not glibc 2.35 or later")
    script = (
        "import resource\n"
        "import numpy as np\n"
        "def fill():\n"
        "    list(map(np.ones, [2_000_000, 30_000_000]))\n"
        "fill()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "fill()\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "print(after - before)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **compiler.environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(process.stdout) < 20


def test_memory_stays_as_the_user_has_set_it(tmp_path):
    mine = "glibc.malloc.check=0"
    (only,) = started(tmp_path, GLIBC_TUNABLES=mine)
    assert only[1] == mine
