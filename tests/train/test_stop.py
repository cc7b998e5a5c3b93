"""Claims about stopping on a signal."""

import subprocess
import sys

# In a process of its own: what else is loaded beside the tests may end the
# process on a signal in ways of its own.
_FIRST_AND_SECOND = """
import signal
import pytest
from seg.train import stop

before = signal.getsignal(signal.SIGTERM)
with stop.Signals() as signals:
    signals.check()
    signals.agree()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(stop.Interrupted, match="SIGTERM"):
        signals.check()
    with pytest.raises(stop.Interrupted, match="SIGTERM"):
        signals.agree()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.getsignal(signal.SIGTERM) is before
"""


def test_the_first_signal_asks_and_the_second_is_the_systems_own():
    command = [sys.executable, "-c", _FIRST_AND_SECOND]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
