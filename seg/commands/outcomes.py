"""What many images came to, said in the end."""

import pathlib
import sys
import typing

from seg import config as config_lib
from seg import flags

if typing.TYPE_CHECKING:
    from seg.predict import bulk


def report(outcome: "bulk.Outcome", out: pathlib.Path, done: str) -> int:
    """Says what became of the images; returns the exit status.

    done: what it is called, "segmented". Raises UserError if all failed.
    """
    n_failed = len(outcome.failures)
    if n_failed:
        path, reason = outcome.failures[0]
        if not reason.startswith(str(path)):
            reason = f"{path}: {reason}"
    if n_failed and not outcome.n_done + outcome.n_skipped:
        if n_failed > 1:
            reason = f"all {n_failed} images failed, as {reason}"
        raise config_lib.UserError(reason)
    again = (
        f", {outcome.n_skipped} finished before" if outcome.n_skipped else ""
    )
    print(f"{outcome.n_done} {done}{again}: {out}")
    if not n_failed:
        return flags.DONE
    print(
        f"warning: {n_failed} of {outcome.n_images} images failed, see "
        f"{out / 'failures.csv'}; the first: {reason}",
        file=sys.stderr,
    )
    return flags.SOME_FAILED
