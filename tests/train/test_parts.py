"""Claims about parts of a network with rates of their own."""

import jax
import numpy as np
import pytest
from flax import nnx

from seg import config, models
from seg.models import blocks
from seg.train import parts


def params(**changes):
    knobs = config.Model(width=2, depth=2, norm="batch", **changes)
    network = nnx.eval_shape(lambda: models.build(knobs, nnx.Rngs(0)))
    return nnx.state(network, nnx.Param)


def test_the_longest_path_that_a_weight_is_in_holds():
    rates = parts.parse(("down=0.5", "down.1 = 0", "down.1.conv1=2", "head=3"))
    wanted = {
        "down.0.conv1.kernel": 0.5,
        "down.1.conv2.kernel": 0.0,
        "down.1.conv1.kernel": 2.0,
        "down.11.conv1.kernel": 0.5,  # a path ends at a dot
        "down": 0.5,
        "head.bias": 3.0,
        "merge.0.conv1.kernel": 1.0,
        "header": 1.0,
    }
    assert {name: parts.factor(rates, name) for name in wanted} == wanted


def test_an_update_is_scaled_by_its_own_path():
    rates = parts.parse(("down.0=0.5", "head.bias=3"))
    tx = parts.scaled(rates)
    ones = jax.tree.map(lambda v: np.ones(v.shape), params())
    found, _ = tx.update(ones, tx.init(ones))
    for path, value in nnx.to_flat_state(found):
        name = ".".join(map(str, path))
        true = 0.5 if name.startswith("down.0.") else 1.0
        true = 3.0 if name == "head.bias" else true
        np.testing.assert_array_equal(value[...], true)


@pytest.mark.parametrize(
    "text", ["encoder", "=1", "encoder=", "head=x", "head=-1", "head=nan",
             "head=inf"],
)  # fmt: skip
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(config.ConfigError, match=r"optim\.rates: .*encoder=0"):
        parts.parse(("down=1", text))
    with pytest.raises(config.ConfigError, match="each part once"):
        parts.parse(("down=1", "down=2"))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("dwon", "did you mean down"),
        ("down.0.conv3", "did you mean .*down.0.conv"),
        ("zzz", "known: down, head, merge, tail, up$"),
        ("conv1", "did you mean down.0.conv1"),
    ],
)
def test_a_part_that_is_not_there_is_answered_with_the_real_ones(name, answer):
    with pytest.raises(config.ConfigError, match=answer):
        parts.check({name: 0.5}, params())


def test_a_network_that_learns_nothing_is_refused():
    tops = ("down", "up", "merge", "tail", "head")
    parts.check(dict.fromkeys(tops[1:], 0.0), params())
    with pytest.raises(config.ConfigError, match="freeze the whole network"):
        parts.check(dict.fromkeys(tops, 0.0), params())


class Twice(nnx.Module):
    """Two norms that keep .999 of what they knew, one in an encoder."""

    def __init__(self):
        self.encoder = nnx.List([blocks.BatchNorm(2, None, momentum=0.999)])
        self.head = blocks.BatchNorm(2, None, momentum=0.999)

    def __call__(self, x):
        self.encoder[0](x)
        self.head(x)


@pytest.mark.parametrize("encoder", ["", "weights.h5"])
def test_running_statistics_are_those_of_the_batches_before_long(encoder):
    x = np.random.default_rng(0).normal(3, 2, (4, 8, 8, 2)).astype(np.float32)
    graph, state = nnx.split(Twice())

    @jax.jit
    def step(state, at):
        network = nnx.merge(graph, state, copy=True)
        parts.warm_up(network, config.Model(encoder=encoder), at)
        network(x)
        return nnx.state(network, nnx.BatchStat, nnx.Param)

    for at in range(20):
        state = nnx.merge_state(*step(state, at))
    network = nnx.merge(graph, state)
    np.testing.assert_allclose(network.head.mean[...], x.mean((0, 1, 2)), 1e-3)
    np.testing.assert_allclose(network.head.var[...], x.var((0, 1, 2)), 1e-3)
    first = network.encoder[0]
    if encoder:  # it has seen ImageNet: .999 of that stays in each step
        np.testing.assert_allclose(first.mean[...], 0.02 * 3, rtol=0.2)
    else:
        np.testing.assert_array_equal(first.mean[...], network.head.mean[...])
