"""Checkpoints that are either whole or not there.

`folder/STEP/` holds `state/` (the arrays, written by orbax) and
`manifest.json` (the step, the caller's `meta`, the shape and type of every
leaf, and the sha256 of every file), which is written last. A checkpoint is
built under a temporary name and renamed once its manifest is on the disk, so
a process killed at any moment leaves the older ones as they were. Orbax reads
a flipped bit back as a wrong number and says nothing: every file is therefore
compared with the manifest before it is restored.

A state is any pytree of jax arrays (sharded or not, typed PRNG keys too),
numpy arrays and Python numbers. What is restored has the types and shardings
of the template. With several processes, each of which has the whole state, all
of them call `save` and `restore`, and process 0 alone writes and removes: the
others read, and may do so from a copy on a disk of their own.
"""

import contextlib
import errno
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax

from seg import config, locks
from seg.train.checkpoint import arrays, manifest

_LISTED = 12  # differing leaves that an error names
_OVERHEAD = 1 << 20  # bytes that a checkpoint takes beside its arrays
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in a folder.

    The `keep` last ones stay, and beside them the best: the last one that was
    saved with `best=True`. Only `save` changes the folder; a reader may look
    at the checkpoints of a run that is still training.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        self.folder = pathlib.Path(folder).absolute()
        self.keep = keep
        self._bad: set[int] = set()

    def steps(self) -> list[int]:
        """The saved steps, ascending, without those found damaged."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir())
        found = {int(name) for name in names if name.isdecimal()}
        return sorted(found - self._bad)

    def latest(self) -> int | None:
        """The last step whose manifest can be read."""
        return next((step for step, _ in self._manifests()), None)

    def best_step(self) -> int | None:
        """The last step that was saved as the best."""
        return next((s for s, body in self._manifests() if body["best"]), None)

    def meta(self, step: int | None = None) -> dict[str, Any] | None:
        """The meta of a step (of the latest), without reading the arrays."""
        for found, body in self._manifests():
            if step in (None, found):
                return body["meta"]
        return None

    def save(
        self, step: int, tree: Any, meta: dict[str, Any], best: bool = False
    ) -> None:
        """Writes a checkpoint, then removes what need not be kept.

        A step that is there already is replaced and stays the best if it was.
        Later steps are of a course that was left (an older one was restored):
        they are removed. Raises UserError when the disk is full, with the
        older checkpoints untouched.
        """
        leaves = arrays.flat(tree)
        part = self.folder / f"{step}.part"
        need = sum(leaf.nbytes for leaf in leaves.values()) + _OVERHEAD
        try:
            if _writer():
                self._clean()
                self._check_free(need)
                arrays.write(part / "state", leaves)
                best = best or step == self.best_step()
                manifest.write(
                    part,
                    step=step,
                    best=best,
                    meta=meta,
                    leaves=arrays.kinds(leaves),
                )
                self._commit(part, step)
                self._prune(step)
        except Exception as error:
            if not _no_space(error):
                raise
            shutil.rmtree(part, ignore_errors=True)
            raise self._full(need) from error
        _sync("seg_checkpoint_saved")

    def restore(
        self, template: Any, step: int | None = None
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Reads (step, tree, meta), the latest good one unless told which.

        A damaged checkpoint is named in a warning and the one before it is
        taken; None when none is left. Raises UserError when the tree differs
        from the template, listing the leaves, or when `step` is given and is
        damaged or not there.
        """
        if step is not None and step not in self.steps():
            there = ", ".join(map(str, self.steps())) or "none"
            raise config.UserError(
                f"{self.folder}: no checkpoint of step {step}; there: {there}"
            )
        for candidate in [step] if step is not None else self.steps()[::-1]:
            folder = self.folder / str(candidate)
            try:
                body = manifest.verified(folder)
            except manifest.Damaged as error:
                text = f"checkpoint {folder} is damaged ({error})"
                if step is not None:
                    raise config.UserError(
                        f"{text}; restore another step"
                    ) from error
                _log.warning("%s; it is refused, trying the one before", text)
                self._bad.add(candidate)
                continue
            return candidate, self._read(folder, template, body), body["meta"]
        return None

    def check(self, template: Any) -> None:
        """Raises UserError where the latest checkpoint is of another tree."""
        for step, body in self._manifests():
            _compare(self.folder / str(step), template, body)
            return

    def _read(
        self, folder: pathlib.Path, template: Any, body: dict[str, Any]
    ) -> Any:
        _compare(folder, template, body)
        return arrays.read(folder / "state", template)

    def _manifests(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for step in self.steps()[::-1]:
            try:
                yield step, manifest.read(self.folder / str(step))
            except manifest.Damaged:
                continue

    def _commit(self, part: pathlib.Path, step: int) -> None:
        final = self.folder / str(step)
        if final.exists():
            os.replace(final, self.folder / f"{step}.old")
        os.replace(part, final)
        manifest.flush(self.folder)
        self._bad.discard(step)

    def _prune(self, step: int) -> None:
        steps = [s for s in self.steps() if s <= step]
        kept = {*steps[-self.keep :], step, self.best_step()}
        for path in list(self.folder.iterdir()):
            if path.name.isdecimal() and (
                int(path.name) not in kept or int(path.name) > step
            ):
                # renamed first: a removal that is cut short leaves no folder
                # that looks like a checkpoint
                os.replace(path, path.with_suffix(".gone"))
        self._clean()

    def _clean(self) -> None:
        """Removes what a process killed in mid-save has left behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.old"):
            if not path.with_suffix("").exists():
                os.replace(path, path.with_suffix(""))
        for end in ("part", "old", "gone"):
            for path in self.folder.glob(f"*.{end}"):
                shutil.rmtree(path, ignore_errors=True)

    def _check_free(self, need: int) -> None:
        # orbax meets a full disk with pages of tracebacks from its threads
        if shutil.disk_usage(self.folder).free < need:
            raise OSError(errno.ENOSPC, "no space for a checkpoint")

    def _full(self, need: int) -> config.UserError:
        free = shutil.disk_usage(self.folder).free
        return config.UserError(
            f"{self.folder}: no space for a checkpoint, {need} bytes needed, "
            f"{free} bytes free; the older checkpoints are intact, free some "
            "space and run the same command again"
        )


def _compare(folder: pathlib.Path, template: Any, body: dict[str, Any]) -> None:
    here = arrays.kinds(arrays.flat(template))
    lines = arrays.differences(body["leaves"], here)
    if lines:
        more = len(lines) - _LISTED
        tail = f" and {more} more" if more > 0 else ""
        raise config.UserError(
            f"checkpoint {folder} is of another model: "
            f"{'; '.join(lines[:_LISTED])}{tail}; use the configuration "
            "it was trained with, or another workdir"
        )


@contextlib.contextmanager
def lock(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Holds a workdir, which is made if need be, for this process alone.

    The lock ends with the process, however it ends. Raises UserError naming
    the process that holds it, or saying that the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.held(folder / "lock", wait=False))
        except OSError as error:
            raise config.UserError(
                f"{folder}: cannot be written ({error.strerror}); choose "
                "another workdir"
            ) from error
        except locks.BusyError as error:
            raise config.UserError(
                f"{folder}: in use by process {error}; wait for it to end or "
                "choose another workdir"
            ) from error
        yield folder


def _writer() -> bool:
    return jax.process_index() == 0


def _sync(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _no_space(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    # tensorstore has no exception of its own for it
    codes = (f"os_error_code='{code}'" for code in _FULL)
    return any(code in str(error) for code in codes)
