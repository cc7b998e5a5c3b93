"""Where a run is recorded: MLflow, a folder of JSON lines, or nowhere.

Metric names are `split/name`; `start` records the config as params and whole,
with tags of the code and the machine. All trackers take a step's metric once:
a resumed run that repeats steps changes nothing. Passwords and tokens in URIs
never reach a record or a message.

Modules: jsonl (the spool), upload (spool to MLflow), background (the thread
that does so during a training), models (bundles in MLflow), names,
environment.
"""

import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from seg import config as config_lib
from seg.train.tracking import background, jsonl, models, names, upload

MlflowTracker = background.MlflowTracker
JsonlTracker = jsonl.JsonlTracker
redact, text = names.redact, names.text
points = jsonl.points


class Tracker(Protocol):
    """What a training tells of itself.

    `run` is the run's id, for the `parent` of others. One that `joins` adds
    to a run which is another's: how that goes, and on which machine, stays as
    it was told, whatever `finish` is given. Knobs that are `varied` among the
    runs that are part of this one, are no params of it. A metric is a float of
    any value; infinities and NaN are recorded as such. `again` says that the
    values are measured anew for a step, and not those of a repeated step: they
    are recorded where they differ. An artifact is a local file, put into
    `folder` of the run. `model` takes a bundle's folder.
    `finish` takes "FINISHED", "FAILED" or "KILLED", or nothing for a run that
    goes on, and is the last call.
    """

    run: str

    def start(
        self,
        config: config_lib.Config,
        tags: Mapping[str, str],
        *,
        joins: bool = False,
        varied: Collection[str] = (),
    ) -> None: ...

    def metrics(
        self, step: int, values: Mapping[str, float], *, again: bool = False
    ) -> None: ...

    def artifact(self, path: str | os.PathLike, folder: str = "") -> None: ...

    def model(self, bundle: str | os.PathLike) -> None: ...

    def finish(self, status: str) -> None: ...


class NullTracker:
    """A Tracker that records nothing."""

    run = ""

    def start(
        self,
        config: config_lib.Config,
        tags: Mapping[str, str],
        *,
        joins: bool = False,
        varied: Collection[str] = (),
    ) -> None:
        """See Tracker."""

    def metrics(
        self, step: int, values: Mapping[str, float], *, again: bool = False
    ) -> None:
        """See Tracker."""

    def artifact(self, path: str | os.PathLike, folder: str = "") -> None:
        """See Tracker."""

    def model(self, bundle: str | os.PathLike) -> None:
        """See Tracker."""

    def finish(self, status: str) -> None:
        """See Tracker."""


def build(
    track: config_lib.Track, workdir: str | os.PathLike, parent: str = ""
) -> Tracker:
    """The tracker of `track.uri` for a run in `workdir`.

    `parent` (default: track.parent, else $SEG_PARENT_RUN) is the `run` of the
    tracker, or the MLflow id of the run, under which this one is nested.
    Raises UserError for a URI that cannot be used.
    """
    workdir = pathlib.Path(workdir)
    told = {
        "name": track.run_name or workdir.resolve().name,
        "experiment": track.experiment,
        "parent": parent
        or track.parent
        or os.environ.get("SEG_PARENT_RUN", ""),
    }
    if track.uri == "none":
        return NullTracker()
    if track.uri.startswith("jsonl:"):
        return _jsonl(track.uri.removeprefix("jsonl:"), workdir, told)
    uri = upload.resolve(track.uri)
    spool = jsonl.JsonlTracker(workdir / jsonl.SPOOL, **told)
    return background.MlflowTracker(spool, uri)


def _jsonl(
    folder: str, workdir: pathlib.Path, told: dict[str, str]
) -> jsonl.JsonlTracker:
    if not folder:
        raise config_lib.UserError(
            "track.uri=jsonl: names no folder; write jsonl:DIR"
        )
    mark = workdir / "run_id"
    run = mark.read_text().strip() if mark.exists() else jsonl.new_run()
    name = f"{names.file(told['name'])}-{run[:8]}"
    path = pathlib.Path(folder) / name / jsonl.SPOOL
    tracker = jsonl.JsonlTracker(path, run=run, **told)
    workdir.mkdir(parents=True, exist_ok=True)
    mark.write_text(run + "\n")
    return tracker


def history(tracker: Tracker) -> list[tuple[int, dict[str, float]]]:
    """(step, values) of all that a tracker has recorded of its run."""
    if isinstance(tracker, MlflowTracker):
        tracker = tracker.spool
    if isinstance(tracker, JsonlTracker):
        return jsonl.history(tracker.path)
    return []


def records(
    track: config_lib.Track, workdir: str | os.PathLike
) -> list[dict[str, Any]]:
    """The records of the run in `workdir`, see `jsonl`; none: not to be found.

    Unlike `build` it changes nothing there.
    """
    workdir = pathlib.Path(workdir)
    mark = workdir / "run_id"
    path: pathlib.Path | None = workdir / jsonl.SPOOL
    if track.uri.startswith("jsonl:"):
        folder = pathlib.Path(track.uri.removeprefix("jsonl:"))
        run = mark.read_text()[:8] if mark.exists() else "-"
        path = next(folder.glob(f"*-{run}/{jsonl.SPOOL}"), None)
    if path is None or not path.exists():
        return []
    return [record for record, _ in jsonl.read(path)]


def sync(
    folder: str | os.PathLike, uri: str | None = None
) -> dict[pathlib.Path, str]:
    """Uploads every spool in a folder to MLflow; twice is the same as once.

    Returns the MLflow run id by the spool's folder. Raises UserError when
    there is no spool, or MLflow fails.
    """
    return background.sync(pathlib.Path(folder), upload.resolve(uri or ""))


def fetch_bundle(uri: str) -> pathlib.Path:
    """A local copy of the bundle in `runs:/RUN[/PATH]` or `models:/...`."""
    where = upload.resolve("")
    path = upload.database(where)
    if path is not None and not path.exists():
        raise config_lib.UserError(
            f"{uri}: there is no {path}; set MLFLOW_TRACKING_URI, or run this "
            "where the training ran"
        )
    upload.library()
    return models.fetch(uri, where)
