"""Runs a command whose folder outlives the host: copies it to a bucket.

    python -m launch.cloud.mirror DISK BUCKET -- COMMAND...

fetches to DISK what BUCKET has, runs the command, copies every minute and at
its end what changed on DISK, and exits as the command did.

A run appends to its log and renames whole folders, and on a mounted bucket
neither is safe (behind rclone's cache, files of a renamed checkpoint came back
as errors). Here a bucket sees only whole files that are written from the
start, and removals. A checkpoint's manifest is the last of its files, so one
that is cut off is known as damaged, and what replaces it is copied before it
is removed. What other hosts have written stays: each copies its own changes.
"""

import logging
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

_EVERY_S = 60.0
_TRIES = 5  # of the first and the last copy
_UNFINISHED = (".part", ".old", ".gone")  # as seg.train.checkpoint has them
_LAST = "manifest.json"
_log = logging.getLogger("launch.cloud")

Seen = dict[str, tuple[int, int]]  # bytes and time of the last change, by name


class Mirror:
    """A folder on the disk, and its copy in a mounted bucket."""

    def __init__(self, disk: pathlib.Path, bucket: pathlib.Path):
        self.disk, self.bucket = disk, bucket
        self._copied: Seen = {}

    def fetch(self) -> None:
        """Puts what the bucket has in the place of what the disk has.

        Of several hosts each must begin with the same; a disk that was used
        before may hold an older run than another one's. Raises OSError where
        the bucket cannot be read.
        """
        names = scan(self.bucket) if self.bucket.is_dir() else {}
        if not names:
            return
        part = self.disk.with_name(f".{self.disk.name}")
        shutil.rmtree(part, ignore_errors=True)
        for name in names:
            _copy(self.bucket / name, part / name)
        if self.disk.exists():
            shutil.rmtree(self.disk)
        part.rename(self.disk)
        self._copied = scan(self.disk)

    def push(self) -> None:
        """Copies what changed, then removes what is gone.

        Raises OSError where the bucket refuses. A file that goes before it is
        copied is left for the next time.
        """
        found = scan(self.disk)
        changed = [n for n in found if self._copied.get(n) != found[n]]
        changed.sort(key=lambda name: name.endswith(_LAST))
        for name in changed:
            if (self.disk / name).exists():
                _copy(self.disk / name, self.bucket / name)
                self._copied[name] = found[name]
        for name in self._copied.keys() - found.keys():
            (self.bucket / name).unlink(missing_ok=True)
            del self._copied[name]


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    # The bytes alone: mounted buckets answer for attributes with errors.
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as old, target.open("wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)


def scan(folder: pathlib.Path) -> Seen:
    """The files that are finished, by their path within the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(
            part.startswith(".") or part.endswith(_UNFINISHED)
            for part in name.parts
        ):
            continue
        try:
            if path.is_file():
                stat = path.stat()
                found[name.as_posix()] = (stat.st_size, stat.st_mtime_ns)
        except FileNotFoundError:  # it went just now
            continue
    return found


def run(mirror: Mirror, command: Sequence[str], every_s: float) -> int:
    """The command's exit status; 1 where what it has done is not all copied.

    1 too where the bucket cannot be read, and the command has not begun. A
    status of its own stands: 33 goes on elsewhere, from an older checkpoint.
    """
    if not _tried(mirror.fetch, every_s):
        return 1
    child = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: child.send_signal(number))
    while True:
        try:
            status = child.wait(every_s)
            break
        except subprocess.TimeoutExpired:
            _tried(mirror.push, every_s, 1)
    copied = _tried(mirror.push, every_s)
    return (status if status >= 0 else 128 - status) or int(not copied)


def _tried(
    copy: Callable[[], None], longest_s: float, tries: int = _TRIES
) -> bool:
    """Whether it has copied all, at last; it waits longer each time."""
    for attempt in range(tries):
        if attempt:
            time.sleep(min(2**attempt, longest_s))
        try:
            copy()
        except OSError as error:
            _log.warning("not all is copied: %s", error)
        else:
            return True
    return False


def main(words: Sequence[str]) -> int:
    """The command of this module; `words` as they stand behind its name."""
    if len(words) < 4 or words[2] != "--":
        print(
            "error: python -m launch.cloud.mirror DISK BUCKET -- COMMAND...",
            file=sys.stderr,
        )
        return 2
    disk, bucket = (pathlib.Path(word).absolute() for word in words[:2])
    return run(Mirror(disk, bucket), words[3:], _EVERY_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
