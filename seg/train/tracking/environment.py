"""Tags of the code and the machine that a run was made with."""

import contextlib
import getpass
import os
import pathlib
import platform
import subprocess
import sys

from seg import compiler

_ROOT = pathlib.Path(__file__).parents[3]


def tags() -> dict[str, str]:
    """The tags: commit of a checkout, hardware, Python, user."""
    found = {"hardware": _hardware(), "python": platform.python_version()}
    commit = _commit()
    if commit:
        found |= {"git_commit": commit, "mlflow.source.git.commit": commit}
    # a container's user need not have a name
    with contextlib.suppress(KeyError, OSError):
        found["mlflow.user"] = getpass.getuser()
    return found


def _hardware() -> str:
    name = compiler.processor().get("model name", platform.machine())
    text = f"{os.cpu_count()} x {name}"
    jax = sys.modules.get("jax")
    if jax is None:
        return text
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return text
    return f"{len(devices)} x {devices[0].device_kind}, {text}"


def _commit() -> str:
    # only the checkout itself: an installed package may lie in the work tree
    # of some other project
    if not (_ROOT / ".git").exists():
        return ""
    commands = (
        ["git", "rev-parse", "HEAD"],
        ["git", "status", "--porcelain", "--untracked-files=no"],
    )
    try:
        commit, changes = (
            subprocess.run(
                command,
                cwd=_ROOT,
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}-dirty" if changes else commit
