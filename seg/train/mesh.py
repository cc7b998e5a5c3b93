"""Devices: the processes, the mesh, and arrays on it.

Training is data-parallel from the start: one axis, "data", over every device
of every process; a single device is a mesh of one. The state is on all
devices, a batch is cut along B.
"""

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


def start_distributed() -> None:
    """Joins the other processes, where the environment names them.

    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID say who
    they are; in a step of SLURM (srun), JAX finds out by itself. When one of
    them dies, the others end within about a minute.

    Raises ConfigError where the three variables do not fit.
    """
    environment, known = os.environ, {}
    if "JAX_COORDINATOR_ADDRESS" in environment:
        known = {
            "num_processes": _number("JAX_NUM_PROCESSES"),
            "process_id": _number("JAX_PROCESS_ID"),
        }
        if not known["process_id"] < known["num_processes"]:
            raise config.ConfigError(
                f"JAX_PROCESS_ID={known['process_id']}; it counts from 0 and "
                f"must be below JAX_NUM_PROCESSES={known['num_processes']}"
            )
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return
    # It would take SIGTERM away from `seg.train.stop`, where all agree too.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        heartbeat_timeout_seconds=_SILENCE_S,
        shutdown_timeout_seconds=_SILENCE_S,
        **known,
    )


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise config.ConfigError(
            f"{name}={text!r}; JAX_COORDINATOR_ADDRESS is set, so it must be "
            "set too, to a number"
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
