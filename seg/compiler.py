"""XLA before it starts: flags, memory, and where it keeps what it compiled."""

import os
import pathlib
import platform
import sys

# XLA's own CPU convolutions take twice as long; the flag hands them to YNNPACK.
# An unknown flag aborts the process, so it is set for the versions tried.
_CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
_CPU_VERSIONS = ("0.10.",)

# A step takes a gigabyte from the system and gives it back, in 170,000 pages
# of 4 KiB: half a second of 2.5 (U-Net of 7.76 M parameters, 4 tiles of
# 256x256, two cores). In huge pages, 1,000 of them, it takes .1 s, and .3 s
# where another process used the memory in between. So it is kept: one heap,
# from which large arrays come too, and which does not shrink.
_TUNABLES = "GLIBC_TUNABLES"
_KEEP_MEMORY = (
    "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0"
    f":glibc.malloc.trim_threshold={1 << 34}"
)


def environment() -> dict[str, str]:
    """What must stand in the environment before a process starts.

    Empty where the user has chosen, or the C library is not glibc 2.35 or
    later.
    """
    library, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    if library != "glibc" or numbers < (2, 35) or _TUNABLES in os.environ:
        return {}
    return {_TUNABLES: _KEEP_MEMORY}


def restart() -> None:
    """Starts this process again, in place, where `environment` asks for it.

    Only for the first lines of a program: nothing of the process is left but
    its number, its environment and its open files.
    """
    if wanted := environment():
        sys.stdout.flush()
        os.execve(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:]],
            {**os.environ, **wanted},
        )


def configure(deterministic: bool = False) -> None:
    """Sets XLA's flags and its cache for training.

    Call it before anything touches a device or is compiled. A flag that the
    user has set in XLA_FLAGS stays as it is, and so does a cache.

    Parameters
    ----------
    deterministic : the same bits in every run on a GPU, at some cost.
    """
    import jaxlib

    flags = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith(_CPU_VERSIONS):
        flags = _with(flags, _CPU_FLAG)
    if deterministic:
        flags = _with(flags, "--xla_gpu_deterministic_ops=true")
    os.environ["XLA_FLAGS"] = flags.strip()
    enable_cache()


def _with(flags: str, flag: str) -> str:
    names = [each.split("=")[0] for each in flags.split()]
    return flags if flag.split("=")[0] in names else f"{flags} {flag}"


def enable_cache() -> None:
    """Keeps compiled programs in ~/.cache/seg/jax, if that can be written.

    JAX_COMPILATION_CACHE_DIR names another folder, XDG_CACHE_HOME another
    place for caches.
    """
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if jax.config.jax_compilation_cache_dir:
        return
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = pathlib.Path(home).expanduser() / "seg" / "jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
