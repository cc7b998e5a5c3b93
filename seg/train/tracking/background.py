"""MLflow from a thread: no step of a training ever waits for a server."""

import logging
import os
import pathlib
import threading
import time
from collections.abc import Collection, Mapping

from seg import config as config_lib
from seg.train.tracking import jsonl, names, upload

_START_S = 9.0  # the most that a start waits for a server
_FINISH_S = 5.0  # that a server which fails at the end is tried again for
_COLLECT_S = 1.0  # between two uploads
_PAUSES_S = (1.0, 30.0)  # between two tries while a server is away
_log = logging.getLogger(__name__)


class MlflowTracker:
    """A Tracker whose records go to a spool, and from there to MLflow.

    The spool is written first and is the truth. While the server is away the
    records wait there: they are sent when it is back, by the next start of
    the same workdir, or by `sync`.
    """

    def __init__(self, spool: jsonl.JsonlTracker, uri: str):
        self.run = spool.run
        self.spool = spool
        self._uploader = upload.Uploader(spool.path.absolute(), uri)
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._new = threading.Event()
        self._tried = threading.Event()
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._failing = False

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty until the server has answered."""
        return self._uploader.run_id

    def start(
        self,
        config: config_lib.Config,
        tags: Mapping[str, str],
        *,
        joins: bool = False,
        varied: Collection[str] = (),
    ) -> None:
        """See Tracker; takes at most ten seconds if the server is silent."""
        end = time.monotonic() + _START_S
        # here, not in the thread: imports of two threads can meet half-way
        upload.library()
        self.spool.start(config, tags, joins=joins, varied=varied)
        self._new.set()
        self._thread.start()
        answered = self._tried.wait(max(1.0, end - time.monotonic()))
        if not answered and not self._uploader.uri.startswith("sqlite"):
            self._failed("no answer yet")

    def metrics(
        self, step: int, values: Mapping[str, float], *, again: bool = False
    ) -> None:
        """See Tracker."""
        self.spool.metrics(step, values, again=again)
        self._new.set()

    def artifact(self, path: str | os.PathLike, folder: str = "") -> None:
        """See Tracker."""
        self.spool.artifact(path, folder)
        self._new.set()

    def model(self, bundle: str | os.PathLike) -> None:
        """See Tracker."""
        self.spool.model(bundle)
        self._new.set()

    def finish(self, status: str) -> None:
        """See Tracker; waits until all is sent, or the server fails."""
        self.spool.finish(status)
        self._closing.set()
        self._new.set()
        end = time.monotonic() + _FINISH_S
        while self._thread.is_alive():
            self._thread.join(0.1)
            if self._failing and time.monotonic() > end:
                self._given_up.set()
                return

    def _drain(self) -> None:
        pause, last = _PAUSES_S
        while not self._given_up.is_set():
            self._new.wait()
            self._new.clear()
            closing = self._closing.is_set()
            try:
                self._uploader.upload()
            # whatever goes wrong with a server must not stop the training
            except Exception as error:
                self._failed(error)
                self._tried.set()
                self._new.set()
                if closing:
                    self._given_up.wait(_COLLECT_S)
                else:
                    self._closing.wait(pause)
                    pause = min(2 * pause, last)
            else:
                self._worked()
                self._tried.set()
                if closing:
                    return
                pause = _PAUSES_S[0]
                self._closing.wait(_COLLECT_S)

    def _failed(self, reason: Exception | str) -> None:
        if not self._failing:
            self._failing = True
            text = names.redact(" ".join(str(reason).split()))[:300]
            folder = self.spool.path.parent
            _log.warning(
                "MLflow at %s fails (%s); the training goes on and its record "
                "waits in %s; once it is back: seg track-sync %s",
                names.redact(self._uploader.uri),
                text,
                self.spool.path,
                folder,
            )

    def _worked(self) -> None:
        if self._failing:
            self._failing = False
            _log.info("MLflow is back; nothing is lost")


def sync(folder: pathlib.Path, uri: str) -> dict[pathlib.Path, str]:
    """Uploads every spool in a folder; see `tracking.sync`."""
    paths = sorted(folder.rglob(jsonl.SPOOL), key=_started)
    if not paths:
        raise config_lib.UserError(
            f"{folder}: holds no {jsonl.SPOOL}; give a workdir, or the DIR of "
            "track.uri=jsonl:DIR"
        )
    upload.library()
    found = {}
    for path in paths:
        uploader = upload.Uploader(path, uri)
        try:
            uploader.upload()
        except config_lib.UserError:
            raise
        # of many kinds: requests', sqlalchemy's, mlflow's own
        except Exception as error:
            text = names.redact(" ".join(str(error).split()))[:300]
            raise config_lib.UserError(
                f"{path}: MLflow at {names.redact(uri)} fails ({text}); what "
                "was sent stays, run the same command again"
            ) from error
        found[path.parent] = uploader.run_id
    return found


def _started(path: pathlib.Path) -> int:
    return next((record["time"] for record, _ in jsonl.read(path)), 0)
