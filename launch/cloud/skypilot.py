"""SkyPilot: its schema, and the submission. Its telemetry is off."""

import os
import pathlib
import subprocess
import sys
import warnings
from typing import Any

from seg import config as config_lib

_QUIET = {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
_RECOVERY = {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}


def check(task: dict[str, Any]) -> str:
    """Checks a task as SkyPilot reads it, offline; returns the version.

    Raises UserError where SkyPilot is not installed, ConfigError where it
    refuses the task.
    """
    os.environ.update(_QUIET)  # it looks while it is imported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sky
    except ImportError as error:
        raise config_lib.UserError(
            f"SkyPilot cannot be imported ({error}); pip install -e .[cloud]"
        ) from error
    from sky.utils import registry

    # It leaves these to its server, in case that has plugins.
    recovery = task["resources"]["job_recovery"]
    for key in recovery.keys() - _RECOVERY:
        raise config_lib.ConfigError(
            config_lib.unknown("key of job_recovery", key, _RECOVERY)
        )
    from sky.jobs import recovery_strategy  # noqa: F401 - it fills the registry

    known = registry.JOBS_RECOVERY_STRATEGY_REGISTRY
    if recovery["strategy"].lower() not in map(str.lower, known):
        raise config_lib.ConfigError(
            config_lib.unknown("strategy", recovery["strategy"], known)
        )
    try:
        sky.Task.from_yaml_config(_copy(task))
    except (ValueError, AssertionError, sky.exceptions.StorageError) as error:
        raise config_lib.ConfigError(f"SkyPilot refuses it: {error}") from error
    return sky.__version__


def text(task: dict[str, Any]) -> str:
    """The task as a file of YAML."""
    import yaml

    return yaml.safe_dump(task, sort_keys=False, allow_unicode=True, width=80)


def command(
    file: pathlib.Path, secrets: list[str], *, yes: bool = False
) -> list[str]:
    """What submits a task as a managed job; yes: without asking."""
    named = [word for name in secrets for word in ("--secret", name)]
    asks = ["--yes"] * yes
    return ["sky", "jobs", "launch", *asks, "--detach-run", *named, str(file)]


def submit(words: list[str]) -> int:
    """Runs that; the exit status."""
    sky = pathlib.Path(sys.executable).with_name(words[0])
    return subprocess.call([sky, *words[1:]], env=os.environ | _QUIET)


def _copy(task: dict[str, Any]) -> dict[str, Any]:
    """As it comes from a file; SkyPilot takes a task apart."""
    import yaml

    return yaml.safe_load(text(task))
