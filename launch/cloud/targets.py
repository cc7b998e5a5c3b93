"""What may be rented: the targets, and the accelerators that seg knows.

SkyPilot accepts any accelerator's name and looks for it in the clouds'
catalogues only once it submits; this list is therefore seg's own.
"""

import dataclasses
import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of machine, and the task file that asks for it.

    Parameters
    ----------
    accelerators : SkyPilot's names; any of them will do.
    count : how many of them a node has, as SkyPilot counts: a TPU slice is
        one, over all of its hosts.
    hosts : machines that run the same command.
    devices : what JAX sees, over all hosts.
    """

    file: str
    accelerators: tuple[str, ...]
    count: int
    hosts: int
    devices: int

    @property
    def path(self) -> pathlib.Path:
        return FOLDER / self.file


TARGETS = {
    "gpu-1": Target(
        "gpu-1.yaml", ("L4", "A10G", "L40S", "A100", "H100"), 1, 1, 1
    ),
    "gpu-8": Target(
        "gpu-8.yaml", ("A100", "A100-80GB", "H100", "H200"), 8, 1, 8
    ),
    # v5e is "v5litepod" to the cloud, and a chip is one device. Up to 8 of
    # them have one host, larger slices a host for every 4.
    "tpu-v5e-8": Target("tpu-v5e-8.yaml", ("tpu-v5litepod-8",), 1, 1, 8),
    "tpu-v5e-16": Target("tpu-v5e-16.yaml", ("tpu-v5litepod-16",), 1, 4, 16),
}
