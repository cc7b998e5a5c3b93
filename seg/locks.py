"""Locks between processes: a file that one of them holds.

The kernel gives a lock up with its process, however that ends, so a killed
one leaves nothing behind.
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import IO

Path = pathlib.Path


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
        while not _took(file, fcntl.LOCK_EX):
            if wait:
                if waiting:
                    waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
                break
            # beside one that only looks, see `is_held`, this can be had
            if not _took(file, fcntl.LOCK_SH):
                file.seek(0)
                raise BusyError(file.read().strip() or "?")
        file.truncate(0)
        file.write(f"{os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def _took(file: IO, kind: int) -> bool:
    """Takes a lock, if nobody has one that forbids it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
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
        return not _took(file, fcntl.LOCK_SH)
