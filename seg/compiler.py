"""XLA before it starts: flags, memory, and where it keeps what it compiled."""

import os
import pathlib
import platform
import subprocess
import sys
import zlib

# XLA's own CPU convolutions take twice as long; the flag hands them to YNNPACK.
# An unknown flag aborts the process, so one of its own tries it first where
# the version of jaxlib is none of those that are known to take it.
_CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
_CPU_VERSIONS = ("0.10.",)
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_TRY = "import jax; jax.devices('cpu')"

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

    enable_cache()
    flags = os.environ.get("XLA_FLAGS", "").split()
    if flags and not flags[0].startswith("--"):  # a file of flags
        return
    known = jaxlib.__version__.startswith(_CPU_VERSIONS)
    if not _has(flags, _CPU_FLAG) and (known or _takes(_CPU_FLAG)):
        flags.append(_CPU_FLAG)
    if deterministic and not _has(flags, _DETERMINISTIC):
        flags.append(_DETERMINISTIC)
    os.environ["XLA_FLAGS"] = " ".join(flags)


def _has(flags: list[str], flag: str) -> bool:
    """Whether the flag is among them, with whatever value."""
    return flag.split("=")[0] in [each.split("=")[0] for each in flags]


def _takes(flag: str) -> bool:
    """Whether this jaxlib knows a flag; found out by a second process."""
    environment = os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _TRY]
    done = subprocess.run(command, env=environment, capture_output=True)
    return done.returncode == 0


def enable_cache() -> None:
    """Keeps compiled programs in ~/.cache/seg/jax, if that can be written.

    Processors of one kind share a folder there: a program of another could
    end the process. It grows until somebody removes it.
    JAX_COMPILATION_CACHE_DIR names another folder, XDG_CACHE_HOME another
    place for caches.
    """
    import jax

    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if jax.config.jax_compilation_cache_dir:
        return
    folder = cache_folder("jax", _kind())
    if folder:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def cache_folder(*names: str) -> pathlib.Path | None:
    """A folder in ~/.cache/seg, made; None if it cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = pathlib.Path(home).expanduser().joinpath("seg", *names)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder if os.access(folder, os.W_OK) else None


def _kind() -> str:
    """A name of what the processor can do."""
    said = processor()
    can = said.get("flags") or said.get("Features", "")  # as Arm's are called
    return f"{platform.machine()}-{zlib.crc32(can.encode()):08x}"


def processor() -> dict[str, str]:
    """What Linux says of the first core, as its "flags"; elsewhere nothing."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
