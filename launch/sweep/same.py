"""Whether what lies in a sweep's workdir is what is asked for now."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

from launch.sweep import plan as plan_lib
from launch.sweep import work
from seg import config as config_lib
from seg.data import layouts, places, records

# Where things are and where they are told; they change no result.
_FREE = ("track.", "data.dir", "data.path", "data.cache_mib")


def check_sweep(
    plan: plan_lib.Plan,
    before: dict[str, Any],
    about: dict[str, Any],
    workdir: pathlib.Path,
) -> None:
    """Raises ConfigError where a sweep.json is of another base or search."""
    lines = _differences(json.dumps(before["base"]), plan.base)
    if plan.search or "search" in before["sweep"]:
        old, new = (
            {k: v for k, v in sweep.items() if k != "trials"}
            if isinstance(sweep, dict)
            else sweep
            for sweep in (before["sweep"], about["sweep"])
        )
        if old != new:
            lines.append("SWEEP, which searches")
    if lines:
        raise config_lib.ConfigError(
            f"{workdir} holds a sweep with another config "
            f"({'; '.join(lines)}); use another workdir"
        )


def check_config(job: work.Job) -> None:
    """Raises ConfigError where a job's folder was begun for another config."""
    try:
        text = (job.folder / "asked.json").read_text()
    except FileNotFoundError:
        return
    if lines := _differences(text, job.config):
        raise config_lib.ConfigError(
            f"{job.folder} was begun with another config ({'; '.join(lines)}); "
            "remove it, or use another workdir"
        )


def check_data(jobs: Iterable[work.Job]) -> None:
    """Raises ConfigError where a job was trained with other data than now.

    Images and packs that are gone are no change, as for a prepared data set.
    """
    sources: dict[Any, str] = {}
    for job in jobs:
        note = job.folder / "data_digest"
        if not note.exists() or not (now := _digest(job, sources)):
            continue
        if (then := note.read_text().strip()) != now:
            raise config_lib.ConfigError(
                f"{job.folder} was trained with other data (digest {then}, "
                f"now {now}); remove it, or use another workdir"
            )


def _digest(job: work.Job, sources: dict[Any, str]) -> str:
    """The digest of the records that a job would read; empty: not there."""
    data = job.config.data
    drawn = data.layout == "synthetic" and not job.tiles
    file = job.tiles or data.path
    if not drawn and not (file and pathlib.Path(file).exists()):
        return ""
    if job.tiles:
        return records.open_pack(file).digest
    key = file, data.layout, job.config.synthetic
    if key not in sources:  # it reads all files
        sources[key] = layouts.source_digest(job.config)
    return places.folder(job.config, sources[key]).name


def _differences(before: str, config: config_lib.Config) -> list[str]:
    return [
        line
        for line in config_lib.diff(config_lib.from_json(before), config)
        if not line.startswith(_FREE)
    ]
