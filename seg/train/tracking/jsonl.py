"""The spool: a run's records in a file, which is the truth about the run.

One JSON object a line, `kind` and `time` (ms since 1970) in each:

start     run (an id of our own), name, experiment, parent, params, tags, joins
          (whether it adds to a run that is another's, as an evaluation does)
metrics   step, values (NaN, Infinity and -Infinity as text)
artifact  path (relative to the spool's folder), folder (in the run)
model     path of a bundle
finish    status

A run that is resumed appends to its spool. A metric that stands there for a
step already is not recorded again: steps that are repeated after a kill give
the same values, and each stands once in every history made from the spool.
What is measured anew (`again`) is recorded if it differs; the last one counts.
Needs the standard library only.
"""

import fcntl
import json
import math
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from seg import config as config_lib
from seg.train.tracking import environment, names

SPOOL = "spool.jsonl"


class JsonlTracker:
    """A Tracker that appends to a spool, and copies artifacts beside it.

    For `jsonl:DIR` the spool is `DIR/NAME-RUN/spool.jsonl`: the folder can be
    carried to another machine and uploaded there. A file that lies in the
    spool's folder already (a workdir) is not copied.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        name: str,
        experiment: str,
        parent: str = "",
        run: str = "",
    ):
        self.path = path
        self.run = run or new_run()
        self._told = {"name": name, "experiment": experiment, "parent": parent}
        self._folder = path.parent.resolve()
        self._absolute = self._folder / path.name
        self._seen: dict[tuple[str, int], float | str] = {}
        self._names: dict[str, str] = {}
        self._joins = False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._mend()
        except OSError as error:
            raise _unwritable(path, error) from error
        for record, _ in read(path):
            if record["kind"] == "start":
                self.run = record["run"]
            elif record["kind"] == "metrics":
                step = record["step"]
                for name, value in record["values"].items():
                    self._seen[name, step] = value

    def start(
        self,
        config: config_lib.Config,
        tags: Mapping[str, str],
        *,
        joins: bool = False,
        varied: Collection[str] = (),
    ) -> None:
        """Records the config (as params and whole, as an artifact) and tags."""
        uri = names.redact(config.track.uri)
        config = config_lib.replace(config, {"track.uri": uri})
        self._joins = joins
        tags = ({} if joins else environment.tags()) | {
            names.clean(key): names.redact(names.cut(value))
            for key, value in tags.items()
        }
        params = {
            names.clean(path): names.cut(names.text(value))
            for path, value in config_lib.to_flat(config).items()
            if path not in varied
        }
        told = {"run": self.run, "joins": joins, **self._told}
        self._append("start", **told, params=params, tags=tags)
        path = self._folder / "artifacts" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(config_lib.to_json(config))
        self.artifact(path)

    def metrics(
        self, step: int, values: Mapping[str, float], *, again: bool = False
    ) -> None:
        """Records the values that this step does not have yet; see Tracker."""
        new = {}
        for raw, value in values.items():
            name, number = self._name(raw), _number(float(value))
            old = self._seen.get((name, step))
            if old is None or (again and old != number):
                new[name] = self._seen[name, step] = number
        if new:
            self._append("metrics", step=int(step), values=new)

    def artifact(self, path: str | os.PathLike, folder: str = "") -> None:
        """Records a file; one from elsewhere is copied into the folder."""
        self._append("artifact", path=self._keep(path, folder), folder=folder)

    def model(self, bundle: str | os.PathLike) -> None:
        """Records a bundle, to be logged as a model."""
        self._append("model", path=self._keep(bundle, "model"))

    def finish(self, status: str) -> None:
        """Records how the run ended, if it has, and is this tracker's."""
        if status and not self._joins:
            self._append("finish", status=status)

    def _name(self, raw: str) -> str:
        if raw not in self._names:
            name = names.clean(raw)
            if name in self._names.values():
                name = names.distinct(name, raw)
            self._names[raw] = name
        return self._names[raw]

    def _append(self, kind: str, **record: Any) -> None:
        record = {"kind": kind, "time": time.time_ns() // 10**6} | record
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with self._absolute.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # an evaluation may write too
                file.write(line.encode())  # there even if the process is killed
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _keep(self, path: str | os.PathLike, folder: str) -> str:
        path = pathlib.Path(path).resolve()
        home = self._folder
        if home in path.parents:
            return path.relative_to(home).as_posix()
        # what lies elsewhere may be gone when the record is uploaded
        kept = home / "artifacts" / folder / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, kept, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, kept)
        return kept.relative_to(home).as_posix()

    def _mend(self) -> None:
        """Cuts off a last line that a killed process has not finished."""
        with self._absolute.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)


def new_run() -> str:
    """A run id that nobody else has."""
    return uuid.uuid4().hex


def read(
    path: pathlib.Path, offset: int = 0
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields (record, offset in the file behind it) of every whole line."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                yield json.loads(line), offset
            except ValueError as error:
                raise config_lib.UserError(
                    f"{path}: the line before byte {offset} is not JSON "
                    f"({error}); remove it"
                ) from error


def points(
    records: Iterable[dict[str, Any]],
) -> list[tuple[int, dict[str, float]]]:
    """(step, values) of all metrics among the records of a spool."""
    return [
        (record["step"], {k: float(v) for k, v in record["values"].items()})
        for record in records
        if record["kind"] == "metrics"
    ]


def history(path: pathlib.Path) -> list[tuple[int, dict[str, float]]]:
    """(step, values) of all metrics in a spool."""
    return points(record for record, _ in read(path))


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"


def _unwritable(path: pathlib.Path, error: OSError) -> config_lib.UserError:
    return config_lib.UserError(
        f"{path}: cannot be written ({error.strerror or error}); free some "
        "space or choose another workdir"
    )
