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
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from seg import config as config_lib
from seg.data import pipeline, records
from seg.evaluate import plots, report
from seg.models import cost
from seg.predict import bundle
from seg.train import (
    averages,
    checkpoint,
    loop,
    mesh,
    optim,
    start,
    step,
    stop,
    tracking,
    validate,
    workdirs,
)

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
        mesh.by_first(lambda: workdirs.claim(held, config, workdir))
        if jax.process_index():
            logging.getLogger("seg").setLevel(logging.WARNING)
        data = records_of(config, tiles)
        workdirs.check_processes(config, data)
        config = records.with_intensities(config, data)
        config = records.with_diameter(config, data)
        # All look before they wait for the first one, which changes it.
        changed = workdirs.changed(config, data, workdir)
        mesh.by_first(lambda: workdirs.check_same_data(data, config, workdir))
        evaluate = validate.on_images(config, data)
        devices = mesh.make()
        n_steps = pipeline.total_steps(data, config)
        per_epoch = pipeline.steps_per_epoch(data, config)
        state, step_fn = step.create(config, n_steps, devices, per_epoch)
        weights = jax.tree.leaves((state["params"], state["stats"]))
        n_params = sum(x.size for x in weights)
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
        if workdirs.is_done(workdir) and not changed:
            return loop.Course(**checkpoints.meta() or {})
        state, origin = start.start(config, state, workdir, checkpoints)
        notes = {"data_digest": data.digest, **origin}
        ends = optim.cycle_ends(config.optim, n_steps)
        mesh.by_first(lambda: workdirs.begin(config, notes, workdir, changed))
        mesh.by_first(lambda: _drop_snapshots(workdir, ends))
        about = notes | {"n_parameters": n_params}
        costs = _costs(config, n_params)
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
                    cycle_ends=ends,
                    # of averages, the next ones would have parts of this
                    on_cycle=lambda state, k: keep(
                        state, {}, f"snapshots/{k}", step.own_weights
                    ),
                    tracker=tracker,
                    signals=signals,
                )
            )
            _finish(tracker, workdir)
        mesh.by_first(lambda: workdirs.end(workdir))
    return course


def _costs(config: config_lib.Config, n_params: int) -> dict[str, float]:
    """What the network costs: parameters, and multiply-adds of one tile."""
    side = config.data.tile
    return {
        "model/parameters": float(n_params),
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
        tracker.finish("FINISHED" if workdirs.is_done(workdir) else "KILLED")


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
        state: step.State,
        metrics: Mapping[str, float],
        folder: str = "bundle",
        of: Callable[[step.State], Any] = step.weights,
    ) -> None:
        if jax.process_index() == 0:
            at = int(state["step"])
            meta = about | {"step": at, "metrics": {**metrics, **costs}}
            made = bundle.from_model(workdirs.public(config), of(state), meta)
            bundle.save(made, workdir / folder)

    return keep


def _drop_snapshots(workdir: pathlib.Path, ends: list[int]) -> None:
    """Removes those of a course with other cycles, that was here before."""
    wanted = {str(k): end for k, end in enumerate(ends, 1)}
    for folder in (workdir / "snapshots").glob("[0-9]*"):
        try:
            step_of = bundle.load(folder).meta["step"]
        except (config_lib.UserError, KeyError):  # it would be refused later
            step_of = None
        if step_of is None or step_of != wanted.get(folder.name):
            shutil.rmtree(folder)


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
