"""Claims about the engine: the network's numbers, few compilations, memory."""

import threading
from concurrent import futures

import jax
import numpy as np
import pytest
from flax import nnx

from seg import models, normalize
from seg.predict import bundle, engine
from seg.predict.engine import xla

NO_STATS = np.zeros((1, len(normalize.COLUMNS)), np.float32)


def engine_of(network):
    """Runs batches that are normalised already."""
    tool = xla.Xla(network, "none")
    return tool, lambda batch: tool.run(batch, NO_STATS)


def run(network, batch):
    return engine_of(network)[1](batch)


def noise(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def network(tiny):
    return bundle.model(tiny)


def test_one_channel_is_a_sigmoid_of_the_networks_logits(network):
    batch = noise(2, 32, 32, 1)
    found = run(network, batch)
    graph, state = nnx.split(models.predicting(network))
    logits = jax.jit(lambda s, x: nnx.merge(graph, s)(x)["classes"])(
        state, batch
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert found.std() > 0.01  # else the test says nothing


def test_several_channels_are_a_softmax(make_bundle):
    model = make_bundle(model__n_classes=3, classes=("background", "a", "b"))
    found = run(bundle.model(model), noise(2, 32, 32, 1))
    assert found.shape == (2, 32, 32, 3)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    assert found.min() >= 0


def test_a_tile_does_not_depend_on_its_batch(network):
    _, of = engine_of(network)
    batch = noise(2, 32, 32, 1)
    other = np.stack([batch[0], np.full((32, 32, 1), 9, np.float32)])
    np.testing.assert_array_equal(of(batch)[0], of(other)[0])


def test_bfloat16_gives_float32_probabilities(make_bundle, network):
    half = bundle.model(make_bundle(model__dtype="bfloat16"))
    batch = noise(2, 32, 32, 1)
    found = run(half, batch)
    assert found.dtype == np.float32
    assert np.abs(found - run(network, batch)).max() < 0.1


def test_another_engine_of_the_architecture_compiles_nothing(make_bundle):
    batch = noise(2, 32, 32, 1)
    first = run(bundle.model(make_bundle(seed=1)), batch)
    before = xla._compiled._cache_size()
    second = run(bundle.model(make_bundle(seed=2)), batch)
    assert xla._compiled._cache_size() == before
    assert np.abs(first - second).max() > 0.01


def test_windows_fit_image_and_stride(network):
    tool, _ = engine_of(network)
    sizes = set()
    for side in range(1, 400):
        for tile in (32, 90, 256):
            window = tool.window((side, 1), tile)
            assert window % tool.stride == 0
            assert window >= min(side, tile)
            assert window < tile + tool.stride
            sizes.add((tile, window))
    assert len(sizes) <= 1 + 2 + 4
    assert tool.window((50, 300), 256) == tool.window((300, 50), 256) == 256


class Small(xla.Xla):
    """An engine whose device holds `room` pixels."""

    def __init__(self, network, room):
        super().__init__(network, "none")
        self.room = room
        self.calls = []

    def _call(self, batch, stats):
        self.calls.append(len(batch))
        if batch.size > self.room:
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes."
            )
        return super()._call(batch, stats)


def test_out_of_memory_halves_the_batch_once_and_for_all(network, caplog):
    tool = Small(network, 2 * 32 * 32)
    batch = noise(8, 32, 32, 1)
    found = tool.run(batch, NO_STATS)
    wanted = [run(network, batch[i : i + 2]) for i in range(0, 8, 2)]
    np.testing.assert_array_equal(found, np.concatenate(wanted))
    assert tool.calls == [8, 4, 2, 2, 2, 2]
    assert "2 windows of 32 px" in caplog.text
    tool.calls.clear()
    tool.run(batch, NO_STATS)
    assert tool.calls == [2, 2, 2, 2]


def test_two_calls_that_do_not_fit_together_are_made_one_by_one(
    network, monkeypatch, caplog
):
    """Each with all its windows: neither shapes nor bits depend on luck."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together, ends = threading.Barrier(2), threading.Event()
    calls, running, n_short = [], [], 0

    class Shared(xla.Xla):
        """The first call runs until the second has failed beside it."""

        def _call(self, batch, stats):
            nonlocal n_short
            calls.append(len(batch))
            running.append(1)
            is_first = len(running) == 1
            try:
                if n_short == 0:
                    together.wait(30)
                if not is_first:
                    n_short += 1
                    ends.set()
                    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")
                assert ends.wait(30)
                return super()._call(batch, stats)
            finally:
                running.pop()

    tool = Shared(network, "none")
    batches = [noise(4, 32, 32, 1) + i for i in range(6)]
    with futures.ThreadPoolExecutor(tool.n_calls) as threads:
        found = list(threads.map(lambda b: tool.run(b, NO_STATS), batches))
    for one, batch in zip(found, batches, strict=True):
        np.testing.assert_array_equal(one, run(network, batch))
    assert calls == [4] * 7
    assert n_short == 1
    assert not caplog.text


def test_a_small_first_batch_does_not_cut_later_ones(network, monkeypatch):
    run, sizes = xla.Xla(network, "none"), []
    call = run._call

    def noted(batch, stats):
        sizes.append(len(batch))
        return call(batch, stats)

    monkeypatch.setattr(run, "_call", noted)
    stats = normalize.measure(np.zeros((8, 8, 1), np.uint8))
    for n in (1, 4):
        run.run(np.zeros((n, 8, 8, 1), np.uint8), stats)
    assert sizes == [1, 4]


def test_a_cpu_computes_one_batch_at_a_time(network):
    assert engine_of(network)[0].n_calls == 1


def test_a_window_that_does_not_fit_is_told_apart(network):
    with pytest.raises(engine.OutOfMemory, match="RESOURCE_EXHAUSTED"):
        Small(network, 5).run(noise(3, 32, 32, 1), NO_STATS)


def test_other_errors_pass(network):
    with pytest.raises(Exception, match=r"(?i)shape|dimension|channel"):
        run(network, noise(1, 32, 32, 2))
