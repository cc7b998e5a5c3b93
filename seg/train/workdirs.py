"""A run's folder: taken hold of, compared with the config, begun and ended.

It holds `config.json`, `data_digest`, `checkpoints/`, `bundle/`, the tracker's
files and `log.txt`; `done` stands in it once the run is complete and recorded.
Only the first of several processes calls what changes it.
"""

import contextlib
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping

from seg import config as config_lib
from seg.data import records
from seg.images import write
from seg.train import checkpoint, mesh, tracking

# What may differ when a run is resumed: it changes no number.
_FREE = (
    "data.dir",
    "data.path",
    "data.cache_mib",
    "train.keep",
    "train.log_every",
    "train.checkpoint_every",
    "train.resume_changed",
    "track.",
    "mesh.",
)

_DONE = "done"  # stands in a workdir whose run is complete and recorded
_REOPENED = "reopened"  # stands where another config or data go on from there


def is_done(workdir: pathlib.Path) -> bool:
    """Whether the training in a workdir is complete, and recorded."""
    return (workdir / _DONE).exists()


def claim(
    held: contextlib.ExitStack, config: config_lib.Config, workdir: pathlib.Path
) -> None:
    """Takes hold of the workdir, if it is this config's."""
    held.enter_context(checkpoint.lock(workdir))
    held.enter_context(_log_file(workdir / "log.txt"))
    check_same(config, workdir)


@contextlib.contextmanager
def _log_file(path: pathlib.Path) -> Iterator[None]:
    """What is logged also goes to the end of a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def check_same(config: config_lib.Config, workdir: pathlib.Path) -> None:
    """Raises UserError where the workdir was trained with another config."""
    path = workdir / "config.json"
    if config.train.resume_changed or not path.exists():
        return
    try:
        before = config_lib.from_json(path.read_text())
    except config_lib.ConfigError as error:
        raise config_lib.UserError(
            f"{path}: {error}; use another workdir, or --train.resume_changed"
        ) from error
    if lines := _differences(before, config):
        raise config_lib.UserError(
            f"{workdir} was trained with another config ({'; '.join(lines)}); "
            "use another workdir, or --train.resume_changed"
        )


def check_same_data(
    data: records.Records, config: config_lib.Config, workdir: pathlib.Path
) -> None:
    path = workdir / "data_digest"
    before = path.read_text().strip() if path.exists() else data.digest
    if before != data.digest and not config.train.resume_changed:
        raise config_lib.UserError(
            f"{workdir} was trained with other data (digest {before}, now "
            f"{data.digest}); use another workdir, or --train.resume_changed"
        )


def changed(
    config: config_lib.Config, data: records.Records, workdir: pathlib.Path
) -> bool:
    """Whether config or data differ from those of a finished run here."""
    path = workdir / "data_digest"
    if (workdir / _REOPENED).exists():
        return True
    if not path.exists():  # nothing has begun here
        return False
    try:
        before = config_lib.from_json((workdir / "config.json").read_text())
    except (config_lib.ConfigError, OSError):
        return True
    return path.read_text().strip() != data.digest or bool(
        _differences(before, config)
    )


def _differences(
    before: config_lib.Config, config: config_lib.Config
) -> list[str]:
    if not config.data.mean:  # those of the data, which are compared
        measured = {"data.mean": (), "data.std": ()}
        before = config_lib.replace(before, measured)
    if not config.data.diameter:
        before = config_lib.replace(before, {"data.diameter": 0.0})
    lines = config_lib.diff(before, config)
    return [line for line in lines if not line.startswith(_FREE)]


def check_processes(config: config_lib.Config, data: records.Records) -> None:
    """Raises UserError where processes train together and differ in these."""
    flat = config_lib.to_flat(config).items()
    kept = {k: v for k, v in flat if not k.startswith(_FREE)}
    if not mesh.all_have(json.dumps([kept, data.digest])):
        raise config_lib.UserError(
            "the processes that train together have other configs or data than "
            "each other; start all of them by the same command"
        )


def begin(
    config: config_lib.Config,
    notes: Mapping[str, str],
    workdir: pathlib.Path,
    changed: bool,
) -> None:
    """Writes what a resumed run is compared with, once nothing is wrong."""
    if changed:
        (workdir / _REOPENED).touch()
        (workdir / _DONE).unlink(missing_ok=True)
    text = config_lib.to_json(public(config))
    files = {name: f"{note}\n" for name, note in notes.items()}
    for name, content in {"config.json": text, **files}.items():
        with write.whole(workdir / name) as part:
            part.write_text(content)


def end(workdir: pathlib.Path) -> None:
    (workdir / _DONE).touch()
    (workdir / _REOPENED).unlink(missing_ok=True)


def public(config: config_lib.Config) -> config_lib.Config:
    """The config without the password that a URI may hold."""
    uri = tracking.redact(config.track.uri)
    return config_lib.replace(config, {"track.uri": uri})
