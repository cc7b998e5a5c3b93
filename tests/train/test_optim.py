"""Each part of seg.train.optim against the equation that defines it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seg import config
from seg.train import optim

PARAMS = {"kernel": np.array([[1.0, -2.0]]), "bias": np.array([3.0])}
GRADS = {"kernel": np.array([[0.3, 0.1]]), "bias": np.array([-0.2])}


def knobs(**changes):
    plain = {"warmup_frac": 0.0, "clip_norm": 0.0, "schedule": "constant"}
    return config.Optim(**(plain | changes))


def rates(knobs, n_steps):
    rate = jax.jit(optim.schedule(knobs, n_steps))
    return np.array([rate(t) for t in range(n_steps)])


def run(knobs, n_steps, grads=GRADS, params=PARAMS):
    """The parameters after n_steps steps with the same gradient."""
    tx = optim.build(knobs, n_steps)
    params = jax.tree.map(jnp.float32, params)
    state = tx.init(params)
    for _ in range(n_steps):
        updates, state = tx.update(
            jax.tree.map(jnp.float32, grads), state, params
        )
        params = jax.tree.map(jnp.add, params, updates)
    return params


def assert_close(found, true):
    assert found.keys() == true.keys()
    for name in true:
        np.testing.assert_allclose(found[name], true[name], rtol=1e-5)


@pytest.mark.parametrize("warmup_frac", [0.0, 0.01, 0.2, 0.5, 1.0])
def test_cosine_follows_its_equation(warmup_frac):
    n, peak = 40, 0.3
    found = rates(config.Optim(learning_rate=peak, warmup_frac=warmup_frac), n)
    w = round(warmup_frac * n)
    for t in range(n):
        if t < w:
            true = peak * (t + 1) / (w + 1)
        else:
            true = peak * (1 + math.cos(math.pi * (t - w) / (n - w))) / 2
        assert found[t] == pytest.approx(true, rel=1e-4)
    assert (found > 0).all()


def test_constant_stays_at_its_peak_after_the_warm_up():
    found = rates(knobs(warmup_frac=0.25, learning_rate=0.1), 8)
    np.testing.assert_allclose(found[:2], [0.1 / 3, 0.2 / 3], rtol=1e-6)
    np.testing.assert_allclose(found[2:], 0.1, rtol=1e-6)


def test_the_cosine_ends_at_zero_and_stays_there():
    rate = optim.schedule(config.Optim(warmup_frac=0.1), 20)
    assert float(rate(20)) == pytest.approx(0, abs=1e-9)
    assert float(rate(25)) == pytest.approx(0, abs=1e-9)


def test_sgd_is_nesterovs_momentum():
    rate, mu = 0.1, 0.8
    found = run(
        knobs(
            name="sgd", learning_rate=rate, momentum=mu, nesterov=True,
        ),
        3,
    )  # fmt: skip
    true = {}
    for name, g in GRADS.items():
        p, v = PARAMS[name].copy(), 0
        for _ in range(3):
            v = mu * v + g
            p = p - rate * (g + mu * v)
        true[name] = p
    assert_close(found, true)


def test_sgd_without_nesterov_is_heavy_ball():
    found = run(
        knobs(name="sgd", learning_rate=1.0, momentum=0.5, nesterov=False), 2
    )
    true = {k: PARAMS[k] - GRADS[k] - 1.5 * GRADS[k] for k in PARAMS}
    assert_close(found, true)


def adam(name, decay, n_steps, rate):
    p, g = PARAMS[name].copy(), GRADS[name]
    m = v = 0
    for t in range(1, n_steps + 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        p = p - rate * (step + decay * p)
    return p


def test_adam_follows_its_equation():
    found = run(knobs(name="adam", learning_rate=0.1, weight_decay=0.5), 4)
    assert_close(found, {k: adam(k, 0, 4, 0.1) for k in PARAMS})


def test_adamw_decays_kernels_and_spares_biases():
    found = run(knobs(name="adamw", learning_rate=0.1, weight_decay=0.5), 4)
    true = {
        "kernel": adam("kernel", 0.5, 4, 0.1),
        "bias": adam("bias", 0, 4, 0.1),
    }
    assert_close(found, true)


def test_muon_turns_kernels_orthogonally_and_biases_as_adam_does():
    """A step of a kernel that has all of its singular values alike."""
    rng = np.random.default_rng(0)
    shape = 3, 3, 4, 8
    params = {"kernel": rng.normal(size=shape), "bias": PARAMS["bias"]}
    grads = {"kernel": rng.normal(size=shape), "bias": GRADS["bias"]}
    settings = knobs(name="muon", learning_rate=0.1, weight_decay=0.5)
    found = run(settings, 1, grads, params)
    nadam = 0.9 * 0.1 / (1 - 0.9**2) + 0.1 / (1 - 0.9)  # of a sign
    assert found["bias"] == pytest.approx(3 + 0.1 * nadam, rel=1e-5)
    moved = found["kernel"] - params["kernel"] * (1 - 0.1 * 0.5)
    moved = moved.reshape(36, 8)
    left, _, right = np.linalg.svd(
        grads["kernel"].reshape(36, 8), full_matrices=False
    )
    # of 36 rows: the root mean square of an element of `left @ right` is 1 / 6
    parts = left.T @ (-moved / (0.1 * 0.2 * 6)) @ right.T
    np.testing.assert_allclose(np.diag(parts), 1, atol=0.35)
    np.testing.assert_allclose(parts - np.diag(np.diag(parts)), 0, atol=1e-4)


def test_clipping_scales_all_gradients_by_the_global_norm():
    large = {k: 100 * g for k, g in GRADS.items()}
    norm = math.sqrt(sum((g**2).sum() for g in large.values()))
    sgd = knobs(name="sgd", learning_rate=1.0, momentum=0.0, nesterov=False)
    found = run(dataclasses.replace(sgd, clip_norm=0.5), 1, large)
    true = {k: PARAMS[k] - large[k] * 0.5 / norm for k in PARAMS}
    assert_close(found, true)
    free = run(sgd, 1, large)
    assert_close(free, {k: PARAMS[k] - large[k] for k in PARAMS})


def test_gradients_below_the_norm_are_left_alone():
    sgd = knobs(name="sgd", learning_rate=1.0, momentum=0.0, nesterov=False)
    clipped = run(dataclasses.replace(sgd, clip_norm=10.0), 1)
    assert_close(clipped, run(sgd, 1))


@pytest.mark.parametrize("name", ["adam", "adamw", "muon", "sgd"])
def test_every_optimiser_trains_an_nnx_model_inside_jit(name):
    rate = 0.5 if name == "muon" else 0.1  # whose steps are a fifth as long
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    tx = optim.build(
        config.Optim(name=name, learning_rate=rate, warmup_frac=0.1), 60
    )
    graph, state = nnx.split((model, nnx.Optimizer(model, tx, wrt=nnx.Param)))
    x = jax.random.normal(jax.random.key(0), (64, 2))
    y = x @ jnp.array([[1.0], [-2.0]]) + 0.5

    @jax.jit
    def step(state):
        model, optimizer = nnx.merge(graph, state)

        def loss(model):
            return jnp.mean((model(x) - y) ** 2)

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), value

    values = []
    for _ in range(60):
        state, value = step(state)
        values.append(float(value))
    assert values[-1] < 0.05 * values[0]


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(config.ConfigError, match="did you mean adam"):
        optim.build(config.Optim(name="adamm"), 10)
    with pytest.raises(config.ConfigError, match="did you mean cosine"):
        optim.build(config.Optim(schedule="cosin"), 10)


def test_the_average_follows_its_equation():
    decay, rng = 0.5, np.random.default_rng(0)
    ema = true = rng.normal(size=3).astype(np.float32)
    for t in range(20):
        p = rng.normal(size=3).astype(np.float32)
        ema = jax.jit(optim.ema_update)({"w": ema}, {"w": p}, decay, t)["w"]
        d = min(decay, (1 + t) / (10 + t))
        true = d * true + (1 - d) * p
        np.testing.assert_allclose(ema, true, rtol=1e-4, atol=1e-6)


def test_the_average_forgets_the_first_weights_early():
    ema = {"w": jnp.array(100.0)}
    for t in range(30):
        ema = optim.ema_update(ema, {"w": jnp.array(1.0)}, 0.9999, t)
    assert float(ema["w"]) == pytest.approx(1.0, abs=1e-3)


def test_the_average_keeps_dtypes_copies_counters_and_fixed_points():
    tree = {"w": jnp.array([1.1, 3.0], jnp.bfloat16), "n": jnp.array(3)}
    new = {"w": tree["w"], "n": jnp.array(4)}
    ema = optim.ema_update(tree, new, 0.9, 7)
    assert ema["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(ema["w"], tree["w"])
    assert int(ema["n"]) == 4


# ------------------------------------------------- the mended paper's parts
def test_each_tensors_gradient_has_norm_1_before_the_momentum():
    """arXiv:1907.03576's: rate 1e-3, momentum .9, Nesterov."""
    rate, mu = 1e-3, 0.9
    found = run(
        knobs(
            name="sgd", learning_rate=rate, momentum=mu, unit_gradients=True,
            clip_norm=1e-3,
        ),
        3,
    )  # fmt: skip
    true = {}
    for name, g in GRADS.items():
        unit = g / np.sqrt((g**2).sum())
        p, v = PARAMS[name].copy(), 0
        for _ in range(3):
            v = mu * v + unit
            p = p - rate * (unit + mu * v)
        true[name] = p
    assert_close(found, true)


@pytest.mark.parametrize("factor", [1e-15, 1e15])
def test_a_gradient_of_any_size_becomes_1_and_none_stays_none(factor):
    tx = optim.unit_gradients()
    grads = {k: jnp.float32(factor * g) for k, g in GRADS.items()}
    grads["none"] = jnp.zeros((2, 2))
    found, _ = tx.update(grads, tx.init(grads))
    for name, g in GRADS.items():
        unit = g / np.sqrt((g**2).sum())
        np.testing.assert_allclose(found[name], unit, rtol=1e-5)
    np.testing.assert_array_equal(found["none"], np.zeros((2, 2)))


@pytest.mark.parametrize("n_cycles", [2, 3, 7])
@pytest.mark.parametrize("n_warm", [0, 4])
def test_each_cycle_is_a_cosine_and_the_first_warms_up(n_cycles, n_warm):
    n, peak = 40, 0.3
    settings = config.Optim(
        learning_rate=peak, warmup_frac=n_warm / n, cycles=n_cycles
    )
    ends = optim.cycle_ends(settings, n)
    assert len(ends) == n_cycles and ends[-1] == n
    assert max(np.diff([0, *ends])) - min(np.diff([0, *ends])) <= 1
    found = rates(settings, n)
    for a, b in zip([0, *ends], ends, strict=False):
        start = a or n_warm
        for t in range(a, b):
            true = peak * (1 + math.cos(math.pi * (t - start) / (b - start)))
            true = peak * (t + 1) / (n_warm + 1) if t < n_warm else true / 2
            assert found[t] == pytest.approx(true, rel=1e-4)


def test_one_cycle_has_no_snapshots():
    assert optim.cycle_ends(config.Optim(), 10) == []


@pytest.mark.parametrize(("n_cycles", "warmup"), [(11, 0.0), (4, 0.25)])
def test_a_cycle_without_a_step_is_refused(n_cycles, warmup):
    settings = config.Optim(cycles=n_cycles, warmup_frac=warmup)
    with pytest.raises(config.ConfigError, match=f"optim.cycles={n_cycles}"):
        optim.schedule(settings, 10)


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_a_parts_rate_scales_its_whole_update(name):
    settings = knobs(name=name, learning_rate=0.1, weight_decay=0.5)
    whole = run(settings, 1)
    parts = run(dataclasses.replace(settings, rates=("kernel=0.25",)), 1)
    np.testing.assert_array_equal(parts["bias"], whole["bias"])
    moved = PARAMS["kernel"] + 0.25 * (whole["kernel"] - PARAMS["kernel"])
    np.testing.assert_allclose(parts["kernel"], moved, rtol=1e-6)
    still = run(dataclasses.replace(settings, rates=("kernel=0",)), 4)
    np.testing.assert_array_equal(still["kernel"], PARAMS["kernel"])
