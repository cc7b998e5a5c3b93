"""Stopping in good order on SIGTERM or SIGINT.

The first signal asks: the work finishes its step, saves and raises
`Interrupted`. The second one ends the process at once; what was saved before
stays valid. Several processes agree, so that all leave at the same step.
"""

import signal
import types

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A signal stopped the work; it is saved and can be resumed."""


class Signals:
    """A context in which signals only ask; `check` raises when one has."""

    def __init__(self):
        self._asked = ""
        self._before = {}

    def __enter__(self) -> "Signals":
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self._asked = signal.Signals(number).name
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_DFL)

    def check(self) -> None:
        """Raises Interrupted if a signal has come to this process."""
        if self._asked:
            raise Interrupted(self._asked)

    def agree(self) -> None:
        """`check` for all processes together; every one of them calls it."""
        import jax  # seconds, for a command that stops without it

        if jax.process_count() == 1:
            self.check()
            return
        import numpy as np
        from jax.experimental import multihost_utils

        asked = multihost_utils.process_allgather(np.array(bool(self._asked)))
        if asked.any():
            raise Interrupted(self._asked or "another process")
