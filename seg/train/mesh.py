"""Devices: flags before JAX starts, the mesh, and arrays on it.

Training is data-parallel from the start: one axis, "data", over every device
of every process; a single device is a mesh of one. The state is on all
devices, a batch is cut along B.
"""

import os
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# XLA's own CPU convolutions take twice as long; the flag hands them to YNNPACK.
# An unknown flag aborts the process, so it is set for the versions tried.
_CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
_CPU_VERSIONS = ("0.10.",)


def configure(deterministic: bool = False) -> None:
    """Sets XLA's flags; call it before anything touches a device.

    A flag that the user has set in XLA_FLAGS stays as it is.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith(_CPU_VERSIONS):
        flags = _with(flags, _CPU_FLAG)
    if deterministic:
        flags = _with(flags, "--xla_gpu_deterministic_ops=true")
    os.environ["XLA_FLAGS"] = flags.strip()


def _with(flags: str, flag: str) -> str:
    return flags if flag.split("=")[0] in flags else f"{flags} {flag}"


def start_distributed() -> None:
    """Joins the other processes, where the environment names them.

    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID say who
    they are; under SLURM, JAX finds out by itself.
    """
    environment = os.environ
    if "JAX_COORDINATOR_ADDRESS" in environment:
        jax.distributed.initialize(
            num_processes=int(environment["JAX_NUM_PROCESSES"]),
            process_id=int(environment["JAX_PROCESS_ID"]),
        )
    elif int(environment.get("SLURM_NTASKS", "1")) > 1:
        jax.distributed.initialize()


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
