"""Wires a config to a training: data, network, loop, tracker, bundle.

What `launch.train` calls. A workdir holds `config.json`,
`checkpoints/`, `bundle/` (the best weights so far), `snapshots/K/` (bundles of
the ends of cycles, where there are several), the tracker's files and `log.txt`;
the same call again resumes, and after completion does nothing. Of
several processes, which share the workdir, process 0 alone locks, logs, tracks
and writes; the others take part in the checkpoints.
"""

import contextlib
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from seg import config as config_lib
from seg.data import pipeline, records
from seg.evaluate import plots, report
from seg.images import write
from seg.models import cost
from seg.predict import bundle
from seg.train import (
    averages,
    checkpoint,
    encoder,
    loop,
    mesh,
    optim,
    step,
    stop,
    tracking,
    validate,
)

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
_log = logging.getLogger(__name__)


def train(
    config: config_lib.Config,
    workdir: pathlib.Path,
    *,
    tiles: str = "",
    signals: stop.Signals | None = None,
) -> loop.Course:
    """Trains in a workdir, resumes there, or finds that it is done.

    Before anything touches a device, call `seg.compiler.configure`.

    Parameters
    ----------
    tiles : a pack of `launch.prepare --pack`, in place of prepared records;
        then neither TensorFlow nor the raw images are needed.
    signals : what to stop on, an entered context; None: one of its own.

    Raises
    ------
    UserError : config, data or workdir cannot be used.
    Interrupted : a signal came; all is saved.
    """
    with contextlib.ExitStack() as held:
        signals = signals or held.enter_context(stop.Signals())
        mesh.by_first(lambda: _claim(held, config, workdir))
        if jax.process_index():
            logging.getLogger("seg").setLevel(logging.WARNING)
        data = records_of(config, tiles)
        config = records.with_intensities(config, data)
        # All look before they wait for the first one, which changes it.
        changed = _changed(config, data, workdir)
        mesh.by_first(lambda: _check_same_data(data, config, workdir))
        evaluate = validate.on_images(config, data)
        devices = mesh.make()
        n_steps = pipeline.total_steps(data, config)
        per_epoch = pipeline.steps_per_epoch(data, config)
        state, step_fn = step.create(config, n_steps, devices, per_epoch)
        n_params = sum(x.size for x in jax.tree.leaves(state["params"]))
        _log.info(
            "%s, %s parameters; %d steps of %d tiles, %d a pass; %d x %s",
            config.model.name,
            f"{n_params:,}",
            n_steps,
            config.train.batch_size,
            per_epoch,
            jax.device_count(),
            jax.devices()[0].device_kind,
        )
        checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
        checkpoints.check(state)
        if is_done(workdir) and not changed:
            return loop.Course(**checkpoints.meta() or {})
        state, sha256 = encoder.start(config, state, workdir, checkpoints)
        notes = {"data_digest": data.digest}
        notes |= {encoder.RECORD: sha256} if sha256 else {}
        mesh.by_first(lambda: _begin(config, notes, workdir, changed))
        about = notes | {"n_parameters": n_params}
        costs = _costs(config)
        keep = _keeper(config, workdir, about, costs)
        tracker = _tracker(config, workdir)
        with _recorded(tracker, config, about):
            tracker.metrics(0, costs)
            course = loop.train(
                loop.Job(
                    config=config,
                    workdir=workdir,
                    devices=devices,
                    n_steps=n_steps,
                    changed=changed,
                    eval_every=config.train.eval_every or per_epoch,
                    state=state,
                    step=step_fn,
                    batches=_batches(data, config, n_steps, tiles),
                    evaluate=evaluate,
                    on_best=keep,
                    settle=_settler(config, data, devices, per_epoch, tiles),
                    cycle_ends=optim.cycle_ends(config.optim, n_steps),
                    on_cycle=lambda state, k: keep(state, {}, f"snapshots/{k}"),
                    tracker=tracker,
                    signals=signals,
                )
            )
            _finish(tracker, workdir)
        mesh.by_first(lambda: _end(workdir))
    return course


def _costs(config: config_lib.Config) -> dict[str, float]:
    """What the network costs: parameters, and multiply-adds of one tile."""
    side = config.data.tile
    return {
        "model/parameters": float(cost.n_parameters(config.model)),
        "model/gmac": cost.multiply_adds(config.model, side, side) / 1e9,
    }


def records_of(config: config_lib.Config, tiles: str = "") -> records.Records:
    """The records of a config: prepared ones, or those of a pack."""
    if tiles:
        packed = records.open_pack(tiles, config.data.cache_mib)
        for what, then, now in (
            (
                "channels",
                packed.config.model.in_channels,
                config.model.in_channels,
            ),
            ("classes", len(packed.config.classes), len(config.classes)),
        ):
            if then != now:
                raise config_lib.UserError(
                    f"{tiles} holds {then} {what}, the config has {now}; pack "
                    "again with launch.prepare --pack"
                )
        return packed
    from seg.data import dataset  # it imports TFDS

    return dataset.open(config)


def record(
    config: config_lib.Config,
    workdir: pathlib.Path,
    at: int,
    found: report.Report,
) -> None:
    """Adds a report of the trained model to the run of a workdir."""
    tracker = tracking.build(config.track, workdir)
    trained = config_lib.from_json((workdir / "config.json").read_text())
    # All of them, differing from the training's or not: params are written
    # once, and a tag may be there from an earlier evaluation.
    tags = {
        f"{found.split}/{name}": tracking.text(value)
        for name, value in found.settings.items()
    }
    joins = bool(tracking.history(tracker))  # else trained elsewhere
    tracker.start(trained, tags, joins=joins)
    try:
        tracker.metrics(at, found.metrics, again=True)
        bounds = {
            f"{name}_{end}": value
            for name, pair in found.intervals.items()
            for end, value in zip(("low", "high"), pair, strict=True)
        }
        tracker.metrics(at, bounds, again=True)
        for path, folder in found.files.items():
            if found.split != "test":
                folder = f"{found.split}/{folder}".rstrip("/")
            tracker.artifact(path, folder)
    finally:
        tracker.finish("FINISHED" if is_done(workdir) else "KILLED")


def is_done(workdir: pathlib.Path) -> bool:
    """Whether the training in a workdir is complete, and recorded."""
    return (workdir / _DONE).exists()


def _claim(
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


def _check_same_data(
    data: records.Records, config: config_lib.Config, workdir: pathlib.Path
) -> None:
    path = workdir / "data_digest"
    before = path.read_text().strip() if path.exists() else data.digest
    if before != data.digest and not config.train.resume_changed:
        raise config_lib.UserError(
            f"{workdir} was trained with other data (digest {before}, now "
            f"{data.digest}); use another workdir, or --train.resume_changed"
        )


def _changed(
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
    lines = config_lib.diff(before, config)
    return [line for line in lines if not line.startswith(_FREE)]


def _begin(
    config: config_lib.Config,
    notes: Mapping[str, str],
    workdir: pathlib.Path,
    changed: bool,
) -> None:
    """Writes what a resumed run is compared with, once nothing is wrong."""
    if changed:
        (workdir / _REOPENED).touch()
        (workdir / _DONE).unlink(missing_ok=True)
    text = config_lib.to_json(_public(config))
    files = {name: f"{note}\n" for name, note in notes.items()}
    for name, content in {"config.json": text, **files}.items():
        with write.whole(workdir / name) as part:
            part.write_text(content)


def _end(workdir: pathlib.Path) -> None:
    (workdir / _DONE).touch()
    (workdir / _REOPENED).unlink(missing_ok=True)


def _public(config: config_lib.Config) -> config_lib.Config:
    """The config without the password that a URI may hold."""
    uri = tracking.redact(config.track.uri)
    return config_lib.replace(config, {"track.uri": uri})


def _batches(
    data: records.Records, config: config_lib.Config, n_steps: int, tiles: str
) -> Callable[[int], Any]:
    make = pipeline.plain_batches if tiles else pipeline.batches
    process = jax.process_index(), jax.process_count()
    return lambda at: make(data, config, at, n_steps - at, process)


def _settler(
    config: config_lib.Config,
    data: records.Records,
    devices: jax.sharding.Mesh,
    per_epoch: int,
    tiles: str,
) -> Callable[[step.State, Callable[[], None]], step.State]:
    if not config.optim.swa:
        return lambda state, check: state
    return averages.settler(
        step.create_measure(config, devices),
        lambda n: _batches(data, config, min(n, per_epoch), tiles)(0),
        devices,
    )


def _keeper(
    config: config_lib.Config,
    workdir: pathlib.Path,
    about: dict[str, Any],
    costs: Mapping[str, float],
) -> Callable[..., None]:
    """Writes the weights that predict as a bundle, in a folder there."""

    def keep(
        state: step.State, metrics: Mapping[str, float], folder: str = "bundle"
    ) -> None:
        if jax.process_index() == 0:
            at = int(state["step"])
            meta = about | {"step": at, "metrics": {**metrics, **costs}}
            made = bundle.from_model(_public(config), step.weights(state), meta)
            bundle.save(made, workdir / folder)

    return keep


def _tracker(
    config: config_lib.Config, workdir: pathlib.Path
) -> tracking.Tracker:
    if jax.process_index():
        return tracking.NullTracker()
    return tracking.build(config.track, workdir)


@contextlib.contextmanager
def _recorded(
    tracker: tracking.Tracker,
    config: config_lib.Config,
    about: dict[str, Any],
) -> Iterator[None]:
    """Starts the run, and says at the end how it went."""
    tracker.start(config, {name: str(value) for name, value in about.items()})
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except stop.Interrupted:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)


def _finish(tracker: tracking.Tracker, workdir: pathlib.Path) -> None:
    """Curves and the bundle, once the training is complete."""
    history = tracking.history(tracker)
    if history and plots.available():
        for path in plots.curves(history, workdir / "curves"):
            tracker.artifact(path, "curves")
    if (workdir / "bundle").is_dir():
        tracker.model(workdir / "bundle")
