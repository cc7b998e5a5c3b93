"""Locks between processes: a file that one of them holds.

The kernel gives a lock up with its process, however that ends, so a killed
one leaves nothing behind.
"""

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import TextIO

Path = pathlib.Path
_GLANCE_S = 0.05  # longer than `is_held` has a lock


class BusyError(Exception):
    """Another process holds the lock; the text says which."""


@contextlib.contextmanager
def held(
    path: Path, *, wait: bool = True, waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Holds the lock file `path`, which is made if need be.

    Parameters
    ----------
    wait : until another process gives it up; else BusyError is raised.
    waiting : called once before that wait.

    Raises
    ------
    OSError : the file cannot be made.
    BusyError : see `wait`.
    """
    with path.open("a+") as file:
        if not _taken(file):
            if not wait:
                time.sleep(_GLANCE_S)  # it may be one that only looks
                if not _taken(file):
                    file.seek(0)
                    raise BusyError(file.read().strip() or "?")
            else:
                if waiting:
                    waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def _taken(file: TextIO) -> bool:
    """Takes the lock, if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file; needs no right to write it.

    Of a file that may not be read it is not known: False.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, PermissionError):
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
