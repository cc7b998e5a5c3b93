"""Devices: the processes, the mesh, and arrays on it.

Training is data-parallel from the start: one axis, "data", over every device
of every process; a single device is a mesh of one. The state is on all
devices, a batch is cut along B.
"""

import hashlib
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from seg import config

# A process that is not heard of for this long is given up, and with it the
# others: longer than a pause of a busy host, shorter than anyone's patience.
_SILENCE_S = 60
_PORT = "8476"  # of SkyPilot's first node; JAX_COORDINATOR_PORT wins


def start_distributed(required: bool = False) -> None:
    """Joins the other processes, where the environment names them.

    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID say who
    they are; in a step of SLURM (srun), JAX finds out by itself. When one of
    them dies, the others end within about a minute.

    Parameters
    ----------
    required : `mesh.distributed`, there must be others. Then the nodes of
        SkyPilot are joined too, and whom JAX finds by itself, as the hosts
        of a TPU slice: it asks the cloud for them, so not unless required.

    Raises
    ------
    ConfigError : the variables do not fit, or the others are required and
        nothing says who they are.
    """
    environment, known = os.environ, {}
    if "JAX_COORDINATOR_ADDRESS" in environment:
        known = _place("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        pass
    elif not required:
        return
    elif environment.get("SKYPILOT_NUM_GPUS_PER_NODE", "0") != "0":
        known = _place("SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK")
        first, *_ = environment["SKYPILOT_NODE_IPS"].split()
        port = environment.get("JAX_COORDINATOR_PORT", _PORT)
        known["coordinator_address"] = f"{first}:{port}"
    # It would take SIGTERM away from `seg.train.stop`, where all agree too.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            heartbeat_timeout_seconds=_SILENCE_S,
            shutdown_timeout_seconds=_SILENCE_S,
            **known,
        )
    except ValueError as error:  # JAX found nobody
        raise config.ConfigError(
            "mesh.distributed: nothing here names the other processes: set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, "
            "or start them by srun, by SkyPilot on nodes with GPUs, or on a "
            "TPU slice; for one process leave --mesh.distributed away"
        ) from error


def _place(of: str, index: str) -> dict[str, int]:
    """How many processes there are and which this is, from two variables."""
    known = {"num_processes": _number(of), "process_id": _number(index)}
    if not known["process_id"] < known["num_processes"]:
        raise config.ConfigError(
            f"{index}={known['process_id']}; it counts from 0 and must be "
            f"below {of}={known['num_processes']}"
        )
    return known


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise config.ConfigError(
            f"{name}={text!r}; it must be a number where several processes "
            "train together"
        )
    return int(text)


def by_first(act: Callable[[], None]) -> None:
    """Process 0 acts, the others wait; where it fails, all of them fail.

    Raises what `act` raises; in the other processes a UserError.
    """
    error = None
    if jax.process_index() == 0:
        try:
            act()
        except Exception as raised:  # the others must not wait in vain
            error = raised
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        failed = np.array(error is not None)
        if multihost_utils.broadcast_one_to_all(failed) and error is None:
            raise config.UserError("process 0 gave up; its message says why")
    if error is not None:
        raise error


def all_have(text: str) -> bool:
    """Whether this is the same text in all processes; all get one answer."""
    if jax.process_count() == 1:
        return True
    from jax.experimental import multihost_utils

    digest = hashlib.sha256(text.encode()).digest()
    found = multihost_utils.process_allgather(np.frombuffer(digest, np.uint32))
    return bool((np.asarray(found) == found[0]).all())


def of_first(value: float) -> float:
    """Process 0's value, for what all of them decide by it."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    bits = np.frombuffer(np.float64(value).tobytes(), np.uint32)
    bits = np.asarray(multihost_utils.broadcast_one_to_all(bits))
    return float(np.frombuffer(bits.tobytes(), np.float64)[0])


def make() -> jax.sharding.Mesh:
    """The mesh over all devices."""
    # Explicit axes fail in the gradients of sort and of reshapes.
    return jax.make_mesh(
        (jax.device_count(),), ("data",), axis_types=(AxisType.Auto,)
    )


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Everything on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_sample(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis cut over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put(mesh: jax.sharding.Mesh, batch: dict[str, np.ndarray]) -> Any:
    """This process's share of a batch, as part of the global arrays."""
    sharding = by_sample(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
