"""From a spool to MLflow, as often as one likes with the same result.

A metric carries the time at which it was recorded, so MLflow takes one that
is sent twice for the one it has; a run is found again by a tag with the
spool's run id; files replace each other. An upload that breaks off anywhere
is therefore simply done again. `spool.sent` remembers how far it came, which
saves time only.

mlflow is imported inside functions: it takes seconds, and is not everywhere.
"""

import contextlib
import json
import logging
import os
import pathlib
import re
import warnings
from typing import Any

from seg import config, locks
from seg.train.tracking import jsonl, models, names, view

_DEFAULT = "sqlite:///mlflow.db"
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
_BATCH = 900  # metrics in a request; MLflow takes 1,000
_TAG, _PARENT_TAG = "seg.run", "seg.parent"
_SETTINGS = {
    # left alone, one call to a dead server takes 246 s
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
}
# of mlflow about itself and its libraries: nothing that a user can mend
_WARNINGS = r"(?s).*(noload|Any type hint is|type hint|Operation with range)"
_log = logging.getLogger(__name__)


def library() -> Any:
    """The mlflow module: patient for seconds only, quiet, no telemetry."""
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    warnings.filterwarnings("ignore", _WARNINGS)
    try:
        import mlflow
    except ImportError as error:
        raise config.UserError(
            f"MLflow cannot be imported ({error}); pip install -e .[train], "
            "or --track.uri=jsonl:DIR"
        ) from error
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def resolve(uri: str) -> str:
    """The URI meant by a `track.uri`, or UserError where none can be used."""
    source = "track.uri" if uri else "MLFLOW_TRACKING_URI"
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "") or _DEFAULT
    shown = names.redact(uri)
    scheme = re.match(r"([a-z]+)(\+\w+)?:", uri)
    if scheme is None or scheme[1] == "file":
        raise config.UserError(
            f"{source}={shown} is a file store, which MLflow writes no more; "
            f"use {_DEFAULT} (or jsonl:DIR, without MLflow)"
        )
    if scheme[1] not in _STORES:
        raise config.UserError(
            f"{source}={shown}; {config.unknown('scheme', scheme[1], _STORES)}"
        )
    path = database(uri)
    if path is None:
        return uri
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise config.UserError(
            f"{source}={shown}: {path} cannot be written; choose another path"
        )
    return f"sqlite:///{path}"


class Uploader:
    """Sends one spool to one MLflow; see the module."""

    def __init__(self, path: pathlib.Path, uri: str):
        self.path = path
        self.uri = uri
        self.run_id = ""
        self._offset = 0
        self._client: Any = None

    def upload(self) -> None:
        """Sends all that is not there yet; whatever mlflow raises goes on."""
        with (
            locks.held(self.path.with_suffix(".lock")),
            _database_lock(self.uri),
        ):
            if not self.run_id and not self._attach():
                return
            metrics: list[Any] = []
            for record, end in jsonl.read(self.path, self._offset):
                if record["kind"] == "metrics":
                    metrics += _metrics(record)
                    if len(metrics) >= _BATCH:
                        self._log_metrics(metrics, end)
                    continue
                self._log_metrics(metrics, self._offset)
                self._send(record)
                self._mark(end)
            if metrics:
                self._log_metrics(metrics, end)

    def _attach(self) -> bool:
        """Finds or makes the run; False for a spool without a start."""
        start = next(
            (r for r, _ in jsonl.read(self.path) if r["kind"] == "start"), None
        )
        if start is None:
            return False
        if self._client is None:
            self._client = library().MlflowClient(self.uri)
        sent = _load(self.path.with_suffix(".sent"))
        mark = self.path.with_name("run_id")
        told = mark.read_text().strip() if mark.exists() else ""
        experiment = self._experiment(start["experiment"])
        run_id = (
            self._alive(told)
            or self._find(experiment, _TAG, start["run"])
            or self._create(experiment, start)
        )
        if sent.get("run_id") == run_id:
            self._offset = sent["offset"]
        _replace(mark, run_id + "\n")
        self.run_id = run_id
        return True

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        path = database(self.uri)
        where = path and (path.parent / "mlruns" / names.file(name)).as_uri()
        try:
            return self._client.create_experiment(name, where, tags=view.tags())
        except library().MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._client.get_experiment_by_name(name).experiment_id

    def _alive(self, run_id: str) -> str:
        if not run_id:
            return ""
        try:
            info = self._client.get_run(run_id).info
        except library().MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        return run_id if info.lifecycle_stage == "active" else ""

    def _find(self, experiment: str, tag: str, value: str) -> str:
        found = self._search(experiment, tag, value)
        return found[0].info.run_id if found else ""

    def _search(self, experiment: str, tag: str, value: str) -> list[Any]:
        return self._client.search_runs([experiment], f"tags.`{tag}`='{value}'")

    def _create(self, experiment: str, start: dict[str, Any]) -> str:
        tags = {_TAG: start["run"]}
        parent = start["parent"]
        if parent:
            # the parent's own upload adopts the run if it comes later
            tags[_PARENT_TAG] = parent
            known = self._find(experiment, _TAG, parent) or self._alive(parent)
            if known:
                tags["mlflow.parentRunId"] = known
        info = self._client.create_run(
            experiment, start["time"], tags, start["name"]
        ).info
        for child in self._search(experiment, _PARENT_TAG, start["run"]):
            self._client.set_tag(
                child.info.run_id, "mlflow.parentRunId", info.run_id
            )
        return info.run_id

    def _log_metrics(self, metrics: list[Any], end: int) -> None:
        if metrics:
            self._client.log_batch(self.run_id, metrics=metrics)
            metrics.clear()
            self._mark(end)

    def _send(self, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if kind == "start":
            self._send_start(record)
        elif kind == "finish":
            self._client.set_terminated(
                self.run_id, record["status"], record["time"]
            )
        else:
            path = self.path.parent / record["path"]
            if not path.exists():
                _log.warning("%s is gone and cannot be uploaded", path)
            elif kind == "model":
                models.log(self._client, self.uri, self.run_id, path)
            else:
                folder = record["folder"] or None
                self._client.log_artifact(self.run_id, str(path), folder)

    def _send_start(self, record: dict[str, Any]) -> None:
        from mlflow import entities

        there = self._client.get_run(self.run_id).data.params
        params, tags = record["params"], dict(record["tags"])
        changed = [
            f"{key}: {there[key]} -> {value}"
            for key, value in params.items()
            if key in there and there[key] != value
        ]
        if changed:  # a param cannot be changed in MLflow
            tags["config_changed"] = names.cut("; ".join(changed))
        new = [
            entities.Param(key, value)
            for key, value in params.items()
            if key not in there
        ]
        for i in range(0, len(new), 100):
            self._client.log_batch(self.run_id, params=new[i : i + 100])
        self._client.log_batch(
            self.run_id, tags=[entities.RunTag(*tag) for tag in tags.items()]
        )
        if not record.get("joins"):
            self._client.update_run(self.run_id, "RUNNING")

    def _mark(self, end: int) -> None:
        self._offset = end
        text = json.dumps({"run_id": self.run_id, "offset": end})
        _replace(self.path.with_suffix(".sent"), text + "\n")


def _metrics(record: dict[str, Any]) -> list[Any]:
    from mlflow import entities

    # MLflow stores an infinity as 1.8e308, which spoils every chart
    return [
        entities.Metric(
            name,
            float("nan") if isinstance(value, str) else value,
            record["time"],
            record["step"],
        )
        for name, value in record["values"].items()
    ]


def database(uri: str) -> pathlib.Path | None:
    """The file of a sqlite URI, None for any other."""
    if not uri.startswith("sqlite:///"):
        return None
    path = uri.removeprefix("sqlite:///").split("?")[0]
    return pathlib.Path(path).absolute()


def _database_lock(uri: str) -> contextlib.AbstractContextManager:
    # processes that create one sqlite database at once collide in MLflow's
    # migrations, and later in "database is locked"
    path = database(uri)
    if path is None:
        return contextlib.nullcontext()
    return locks.held(path.with_name(path.name + ".lock"))


def _load(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # nothing is lost but the time to send it again


def _replace(path: pathlib.Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
