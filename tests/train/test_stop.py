"""Claims about stopping on a signal."""

import signal

import pytest

from seg.train import stop


def test_the_first_signal_asks_and_the_second_is_the_systems_own():
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
