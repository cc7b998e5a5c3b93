"""A command line as SkyPilot's task: checked, and without the network.

The task is a target's file with its variables filled in; what a host then
does stands in host.sh. Buckets are mounted at /data and /checkpoints.
"""

import dataclasses
import pathlib
import re
import shlex
import subprocess
import urllib.parse
from collections.abc import Mapping
from typing import Any

from launch.cloud import targets
from seg import config as config_lib
from seg import flags as seg_flags

ROOT = targets.FOLDER.parent.parent
DATA, CHECKPOINTS = "/data", "/checkpoints"
_BUCKET = re.compile(r"(gs|s3|r2|cos|oci)://[a-z0-9][\w.-]+[a-z0-9]")
_OURS = ("data.exclude", "data.hard", "train.start")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,60}")
# Knobs that name a file or folder, which must lie in the bucket of data; the
# last ones may lie in the checkout, which the hosts get, too.
_FILES = ("data.path", "model.encoder", *_OURS)

Task = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Order:
    """What is asked for, beside the target.

    Parameters
    ----------
    experiment : of the checkout, FILE.py or FILE.py:NAME.
    knobs : those the command line sets, as text, by dotted path.
    extra : more flags of the command, written out.
    workdir : name of the run's folder in the bucket of checkpoints.
    tiles : a pack's place in the bucket of data.
    accelerator : the one of the target's to take; empty = any.
    """

    config: config_lib.Config
    experiment: str
    workdir: str
    knobs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra: tuple[str, ...] = ()
    sweep: bool = False
    tiles: str = ""
    accelerator: str = ""
    nodes: int = 1
    spot: bool = True
    data_bucket: str = ""
    checkpoint_bucket: str = ""
    tracking_uri: str = ""


def target(name: str) -> targets.Target:
    """The target of this name; raises ConfigError for an unknown one."""
    if name not in targets.TARGETS:
        raise config_lib.ConfigError(
            config_lib.unknown("--target", name, targets.TARGETS)
        )
    return targets.TARGETS[name]


def make(name: str, order: Order) -> Task:
    """The task that SkyPilot gets; raises ConfigError."""
    to = target(name)
    _check_devices(to, order)
    _check_tracking(order)
    task = read(to)
    resources = task["resources"] | {"use_spot": order.spot}
    if order.accelerator:
        _check_accelerators([order.accelerator], to)
        resources["accelerators"] = {order.accelerator: to.count}
    mounts = dict(task["file_mounts"])
    knobs = _placed(order)
    buckets = {"CHECKPOINT_BUCKET": _bucket(order, "checkpoint_bucket")}
    placed = (knobs.get(path, "") for path in _FILES)
    if order.tiles or any(value.startswith(f"{DATA}/") for value in placed):
        buckets["DATA_BUCKET"] = _bucket(order, "data_bucket")
    else:
        del mounts[DATA]
    envs = {k: v for k, v in task["envs"].items() if not k.endswith("_BUCKET")}
    return task | {
        "name": "seg-" + re.sub(r"[^\w.-]+", "-", order.workdir),
        "workdir": str(ROOT),
        "num_nodes": order.nodes,
        "resources": resources,
        "envs": envs
        | buckets
        | {
            "ARGS": shlex.join(_arguments(order, knobs)),
            "WORKDIR": _workdir(order),
            "COMMAND": "launch.sweep" if order.sweep else "launch.train",
            "TILES": order.tiles and _inside("--tiles", order.tiles),
            "DISTRIBUTED": str(hosts(to, order) > 1).lower(),
            "MLFLOW_TRACKING_URI": order.tracking_uri,
        },
        "file_mounts": mounts,
    }


def read(to: targets.Target) -> Task:
    """A target's file; raises ConfigError where it asks for what is unknown."""
    import yaml  # comes with SkyPilot, and with MLflow

    task = yaml.safe_load(to.path.read_text())
    asked = task["resources"]["accelerators"]
    _check_accelerators(asked, to, where=f"{to.path.name}: ")
    for name, count in asked.items():
        if count != to.count:
            raise config_lib.ConfigError(
                f"{to.path.name}: {name}: {count}; this target has {to.count}"
            )
    return task


def hosts(to: targets.Target, order: Order) -> int:
    """The machines that run the command."""
    return to.hosts * order.nodes


def secrets(environment: Mapping[str, str]) -> list[str]:
    """The names of what an MLflow server asks for, where it is set here."""
    names = ("USERNAME", "PASSWORD", "TOKEN")
    found = (f"MLFLOW_TRACKING_{name}" for name in names)
    return [name for name in found if environment.get(name)]


def _check_accelerators(
    names: Any, to: targets.Target, where: str = ""
) -> None:
    for name in names:
        if name not in to.accelerators:
            raise config_lib.ConfigError(
                where + config_lib.unknown("accelerator", name, to.accelerators)
            )


def _check_devices(to: targets.Target, order: Order) -> None:
    if order.nodes > 1 and to.hosts > 1:
        raise config_lib.ConfigError(
            "--nodes: a slice of a TPU is one; choose a larger target"
        )
    if order.sweep and hosts(to, order) > 1:
        raise config_lib.ConfigError(
            "--sweep: a sweep runs on one host; choose a target with one, "
            "and several devices"
        )
    n_devices, size = to.devices * order.nodes, order.config.train.batch_size
    alone = any(word.startswith("--gpus=") for word in order.extra)
    if size % n_devices and not alone:
        above = -(-size // n_devices) * n_devices
        raise config_lib.ConfigError(
            f"train.batch_size={size} cannot be divided over the {n_devices} "
            f"devices of the target; choose a multiple, as {above}"
        )


def _check_tracking(order: Order) -> None:
    uri = order.tracking_uri
    if order.config.track.uri == "none":
        return
    if order.config.track.uri:
        raise config_lib.ConfigError(
            f"track.uri={order.config.track.uri} is not reached from a rented "
            "host; leave it away and give --tracking_uri, or --track.uri=none"
        )
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise config_lib.ConfigError(
            f"--tracking_uri={uri}: where is the MLflow server? give its "
            "address, as http://HOST:5000, or --track.uri=none"
        )
    if parts.username or parts.password:
        raise config_lib.ConfigError(
            "--tracking_uri holds a password, which the plan would show; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )


def _placed(order: Order) -> dict[str, str]:
    """The knobs for the hosts: files where the bucket is mounted."""
    knobs = {k: v for k, v in order.knobs.items() if k != "mesh.distributed"}
    flat = config_lib.to_flat(order.config)
    drawn = order.config.data.layout == "synthetic" or order.tiles
    for path in _FILES:
        if not flat[path]:  # and what says so among the knobs stays
            if path == "data.path" and not drawn:
                raise config_lib.ConfigError(
                    f"data.layout={order.config.data.layout} needs images; "
                    "give --data.path=PLACE/IN/BUCKET and "
                    "--data_bucket=gs://NAME"
                )
            continue
        knobs.pop(path, None)
        if drawn and path in ("data.path", "data.exclude"):
            continue
        if path in _OURS and _is_uploaded(flat[path]):
            knobs[path] = flat[path]
        else:
            knobs[path] = f"{DATA}/{_inside(path, flat[path])}"
    return knobs


def _is_uploaded(path: str) -> bool:
    """Whether a path is one of the checkout, and called as on the hosts."""
    place = ROOT / path
    return (
        bool(path)
        and not pathlib.PurePath(path).is_absolute()
        and place.resolve().is_relative_to(ROOT)
        and place.exists()
        and not _is_ignored(path)
    )


def _is_ignored(path: str) -> bool:
    """Whether git ignores a path of the checkout: it is not uploaded then."""
    asked = ["git", "-C", str(ROOT), "check-ignore", "-q", path]
    return subprocess.run(asked, stderr=subprocess.DEVNULL).returncode == 0


def _inside(name: str, path: str) -> str:
    """A path within the bucket of data, which this host cannot see."""
    found = pathlib.PurePosixPath(path)
    if found.is_relative_to(DATA):
        found = found.relative_to(DATA)
    if found.is_absolute() or ".." in found.parts:
        raise config_lib.ConfigError(
            f"{name}={path} lies on this machine; upload it, and give its "
            "path within --data_bucket"
        )
    return str(found)


def _bucket(order: Order, name: str) -> str:
    found = getattr(order, name)
    if not _BUCKET.fullmatch(found.removesuffix("/")):
        raise config_lib.ConfigError(
            f"--{name}={found}: a bucket is needed, as gs://NAME or s3://NAME"
        )
    return found.removesuffix("/")


def _workdir(order: Order) -> str:
    if not _NAME.fullmatch(order.workdir):
        raise config_lib.ConfigError(
            f"--workdir={order.workdir}: it is a name in the bucket of "
            "checkpoints, of letters, digits, '-', '_' and '.'"
        )
    return order.workdir


def _arguments(order: Order, knobs: Mapping[str, str]) -> list[str]:
    experiment = f"--experiment={_experiment(order.experiment)}"
    return [experiment, *(f"--{k}={v}" for k, v in knobs.items()), *order.extra]


def _experiment(text: str) -> str:
    """The experiment as it is called in the checkout on the host."""
    file, name = seg_flags.named(text)
    path = file.absolute().resolve()
    if not path.is_relative_to(ROOT):
        raise config_lib.ConfigError(
            f"--experiment={text} lies outside of {ROOT}, which is what the "
            "hosts get; copy it to experiments/"
        )
    inside = path.relative_to(ROOT)
    if _is_ignored(str(inside)):
        raise config_lib.ConfigError(
            f"--experiment={text} is ignored by git, and so not uploaded; "
            "copy it to experiments/"
        )
    return str(inside) if str(file) == text else f"{inside}:{name}"


def commands(task: Task) -> list[str]:
    """What host.sh makes of a task's variables, as bash reads it."""
    envs = task["envs"]
    command, flags = envs["COMMAND"], shlex.join(shlex.split(envs["ARGS"]))
    disk = f'"$HOME/runs/{envs["WORKDIR"]}"'
    last = f"--workdir={disk} --mesh.distributed={envs['DISTRIBUTED']}"
    lines = []
    if envs["TILES"]:
        last += " " + shlex.quote(f"--tiles={DATA}/{envs['TILES']}")
    elif command == "launch.train":
        lines.append(f"python -m launch.prepare {flags}")
    mirror = f"python -m launch.cloud.mirror {disk} {CHECKPOINTS}/"
    mirror += f"{envs['WORKDIR']} -- python -m {command} {flags} {last}"
    return [*lines, mirror]
