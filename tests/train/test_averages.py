"""Claims about stochastic weight averaging, against an average by NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seg import config, models, normalize
from seg.train import averages, mesh, step

N_STEPS, SIDE = 12, 16
KNOBS = {
    "model.width": 2,
    "model.depth": 1,
    "model.norm": "batch",
    "model.dropout": 0.2,
    "data.tile": SIDE,
    "optim.learning_rate": 0.02,
    "optim.swa": 0.5,
    "optim.swa_every": 2,
    "train.batch_size": 2,
    "train.augment": False,  # takes longest to compile
}


def settings(**changes):
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    return config.replace(config.Config(), KNOBS | changes)


def batch_of(at):
    rng = np.random.default_rng(at)
    image = rng.integers(0, 255, (2, SIDE, SIDE, 1)).astype(np.uint8)
    return {
        "image": image,
        "classes": (image[..., 0] > 128).astype(np.uint8),
        "stats": np.stack([normalize.measure(i) for i in image]),
        "weight": np.ones(2, np.float32),
    }


def with_ids(n):
    return ({**batch_of(at), "ids": np.array(["", ""])} for at in range(n))


@functools.cache
def trained():
    """The states after each step, on the host; the last one on the device."""
    state, train_step = step.create(settings(), N_STEPS, mesh.make())
    states = []
    for at in range(N_STEPS):
        state, _ = train_step(state, batch_of(at))
        states.append(jax.device_get(state))
    return states, state


def assert_close(found, true, **kwargs):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **kwargs), found, true
    )


@pytest.mark.parametrize(
    ("swa", "every", "per_epoch", "wanted"),
    [
        (0.5, 2, 9, [8, 10, 12]),
        (0.5, 0, 3, [9, 12]),
        (0.2, 1, 9, [11, 12]),
        (0.01, 1, 1, [12]),
        (0.3, 5, 1, [12]),
        (0.99, 4, 1, [4, 8, 12]),
    ],
)
def test_the_last_steps_are_taken_and_the_very_last_always(
    swa, every, per_epoch, wanted
):
    knobs = config.Optim(swa=swa, swa_every=every)
    assert list(averages.taken(knobs, N_STEPS, per_epoch)) == wanted


def test_the_average_is_the_mean_of_the_weights_and_predicts():
    states, _ = trained()
    for at, state in enumerate(states, 1):
        seen = [states[t - 1]["params"] for t in (8, 10, 12) if t <= at]
        assert state["swa"]["n"] == len(seen)
        assert averages.has_begun(state["swa"]) == bool(seen)
        found = nnx.filter_state(step.weights(state), nnx.Param)
        if seen:
            mean = jax.tree.map(lambda *p: np.mean(p, 0), *seen)
            assert_close(found, mean, rtol=1e-5, atol=1e-7)
        else:
            assert_close(found, state["params"], rtol=0)


def test_a_training_that_is_made_longer_averages_anew():
    ones = {"w": jnp.ones(3)}
    swa = {"params": {"w": 5 * jnp.ones(3)}, "n": jnp.int32(3)}
    steps = range(20, 25, 2)
    swa = averages.update(swa, ones, jnp.int32(13), steps)
    assert not averages.has_begun(swa)
    swa = averages.update(swa, ones, jnp.int32(20), steps)
    assert averages.has_begun(swa)
    np.testing.assert_array_equal(swa["params"]["w"], 1)


@pytest.mark.parametrize("augmented", [False, True])
def test_statistics_are_the_mean_of_the_batches_moments(augmented):
    """What a momentum of .9 adds to any average is a tenth of the moments."""
    knobs = settings(train__augment=augmented)
    devices = mesh.make()
    _, state = trained()
    settle = averages.settler(
        step.create_measure(knobs, devices),
        lambda n: with_ids(min(n, 3)),
        devices,
    )
    calls = []
    found = settle(state, lambda: calls.append(1))["swa"]
    assert len(calls) == 3
    assert_close(found["params"], state["swa"]["params"], rtol=0)
    network = nnx.eval_shape(lambda: models.build(knobs.model, nnx.Rngs(0)))
    graph = nnx.graphdef(network)
    old = state["swa"]["stats"]
    moments = []
    for k in range(3):
        image, _, key = step._tiles(knobs, k, batch_of(k))
        model = nnx.merge(graph, found["params"], old, copy=True)
        _, new = step._forward(model, image, key)
        moments.append(jax.tree.map(lambda n, o: (n - 0.9 * o) / 0.1, new, old))
    mean = jax.tree.map(lambda *m: np.mean(m, 0), *moments)
    assert_close(found["stats"], mean, rtol=1e-3, atol=1e-4)
    predicted = nnx.filter_state(
        step.weights(state | {"swa": found}), nnx.BatchStat
    )
    assert_close(predicted, found["stats"], rtol=0)
    # it is a function of the weights and the data alone
    again = settle(state | {"swa": found}, lambda: None)["swa"]
    assert_close(again["stats"], found["stats"], rtol=0)


@pytest.mark.parametrize(
    "swa",
    [
        None,
        {"n": 0, "stats": {"mean": np.ones(2)}},  # it has not begun
        {"n": 3, "stats": {}},  # no batch normalisation
    ],
)
def test_where_nothing_need_be_measured_nothing_is(swa):
    state = {"swa": swa}
    assert averages.settler(None, None, mesh.make())(state, None) is state
