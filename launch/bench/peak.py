"""Runs `seg` with these arguments and notes the memory that it took.

    python -m launch.bench.peak FILE predict slide.tif --model=... --out=...

FILE gets the bytes of the largest of the process and its children, at their
peak: VmHWM, which counts mapped files too.
"""

import pathlib
import resource
import sys


def peak() -> int:
    """Bytes: the high-water mark of this process or of one that it began."""
    status = pathlib.Path("/proc/self/status").read_text()
    own = int(status.partition("VmHWM:")[2].split()[0])
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return 1024 * max(own, children)  # both in KiB


def main(report: str, *arguments: str) -> None:
    """Runs the command; ends as it ends."""
    from seg import __main__ as command

    try:
        command.main(arguments)
    finally:
        pathlib.Path(report).write_text(str(peak()))


if __name__ == "__main__":
    main(*sys.argv[1:])
