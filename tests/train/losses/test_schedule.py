"""What `loss.terms` says: sums, phases, and what is refused."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg import config, normalize
from seg.train import losses, mesh, step
from tests.train.losses import cases

PHASES = "cross_entropy, from 0.4: dice + 2*focal, from .8: lovasz_softmax"
SUMS = ["cross_entropy", "dice + 2*focal", "lovasz_softmax"]


def test_parse_reads_factors_and_names():
    def only(terms):
        ((start, found),) = losses.parse(terms)
        assert start == 0
        return found

    assert only("dice+2*focal") == [(1.0, "dice"), (2.0, "focal")]
    assert only(".5 * dice") == [(0.5, "dice")]
    assert only("1e-3*dice + 1e+2*dice") == [(0.001, "dice"), (100.0, "dice")]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ("cross_entropi", "did you mean cross_entropy"),
        ("", "unknown term"),
        ("dice +", "unknown term"),
        ("x*dice", "'x' is not a positive number"),
        ("-1*dice", "'-1' is not a positive number"),
        ("inf*dice", "'inf' is not a positive number"),
        ("*dice", "not a positive number"),
        ("dice, focal", "'focal' does not say when it begins; write .* from"),
        ("dice, from 0.4 focal", "does not say when it begins"),
        ("dice, form 0.4: focal", "does not say when it begins"),
        ("dice,", "'' does not say when it begins"),
        ("from 0.4: dice", "the first phase begins with the training"),
        ("from 0.4: dice, from 0.5: focal", "the first phase begins"),
        ("dice, from 0: focal", "from '0'; give a share .* between 0 and 1"),
        ("dice, from 1: focal", "between 0 and 1"),
        ("dice, from : focal", "between 0 and 1"),
        ("dice, from nan: focal", "between 0 and 1"),
        ("dice, from 40%: focal", "from '40%'; give a share"),
        ("dice, from .5: focal, from .5: dice", "between 0.5 and 1"),
        ("dice, from .5: focal, from .4: dice", "between 0.5 and 1"),
        ("dice, from .5: focl", "did you mean focal"),
        ("dice, from .5:", "unknown term"),
    ],
)
def test_parse_refuses_what_it_does_not_know(terms, message):
    with pytest.raises(config.ConfigError, match=message):
        losses.parse(terms)


@pytest.mark.parametrize(
    ("n_classes", "knobs", "message"),
    [
        (3, {"terms": "binary_cross_entropy"}, "n_classes=1"),
        (2, {"terms": "dice + lovasz_hinge"}, "n_classes=1"),
        (2, {"terms": "lovasz_sigmoid"}, "n_classes=1"),
        (2, {"terms": "lovasz_symmetric"}, "n_classes=1"),
        (1, {"terms": "lovasz_softmax"}, "2 or more"),
        (1, {"terms": "dice, from .5: lovasz_softmax"}, "2 or more"),
        (3, {"classes": "1,3"}, "a list of 0,1,2"),
        (3, {"classes": "1,1"}, "a list of 0,1,2"),
        (3, {"classes": "presnt"}, "write present"),
        (1, {"classes": "0"}, "a list of 1"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(n_classes, knobs, message):
    with pytest.raises(config.ConfigError, match=message):
        losses.check_terms(config.Loss(**knobs), n_classes)


def test_every_term_passes_where_it_fits():
    assert {name for _, name in cases.EVERY} == set(losses.TERMS)
    for n_classes, name in cases.EVERY:
        losses.check_terms(config.Loss(terms=name, classes="1"), n_classes)


def test_parse_gives_the_phases_in_order():
    assert losses.parse(PHASES) == [
        (0.0, [(1.0, "cross_entropy")]),
        (0.4, [(1.0, "dice"), (2.0, "focal")]),
        (0.8, [(1.0, "lovasz_softmax")]),
    ]


def run(terms):
    """(logits, truth, progress) -> value and gradient."""
    loss = config.Loss(terms=terms)

    def f(logits, truth, progress):
        weight = jnp.ones(len(logits))
        return cases.total(logits, truth, weight, loss, progress)

    return jax.jit(jax.value_and_grad(f), compiler_options=cases.QUICK)


def test_value_and_gradient_are_those_of_the_phase_that_is_on():
    logits, truth = cases.sample(3)
    # ignored and not a number, in a branch too
    logits[truth == losses.IGNORE] = np.nan
    true, phased = cases.every(logits, truth, names=SUMS), run(PHASES)
    for progress, n in (
        *((0.0, 0), (0.399, 0), (0.4, 1), (0.799, 1)),
        *((0.8, 2), (0.999, 2), (1.0, 2)),
    ):
        found = phased(logits, truth, np.float32(progress))
        for a, b in zip(found, true[SUMS[n]], strict=True):
            assert np.isfinite(a).all()
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", [float, jnp.float32])
def test_phases_without_jit_are_the_same(kind):
    logits, truth = cases.sample(3)
    weight, loss = np.ones(len(logits)), config.Loss(terms=PHASES)
    true = cases.value(logits, truth, SUMS[1])
    found = cases.total(logits, truth, weight, loss, kind(0.5))
    assert float(found) == pytest.approx(true, rel=1e-5)


def test_a_phase_that_is_off_is_not_computed(monkeypatch):
    called = []

    def costly(logits, classes, mask, loss):
        jax.debug.callback(lambda: called.append(1))
        return losses.TERMS["dice"](logits, classes, mask, loss)

    monkeypatch.setitem(losses.TERMS, "costly", costly)
    logits, truth = cases.sample(1)
    step = run("costly, from 0.25: dice, from 0.75: costly")
    for progress, n_calls in ((0.0, 1), (0.3, 1), (0.7, 1), (0.8, 2)):
        jax.block_until_ready(step(logits, truth, np.float32(progress)))
        jax.effects_barrier()
        assert len(called) == n_calls


@pytest.mark.parametrize("n_steps", [7, 10, 1000, 99999])
def test_a_phase_begins_at_the_step_that_its_share_names(n_steps):
    logits, truth = cases.sample(1, shape=(1, 2, 2), ignored=0)
    loss = config.Loss(terms="dice, from 0.3: 2*dice, from 0.7: 3*dice")
    weight = np.ones(1, np.float32)
    steps = np.unique(
        [np.arange(7), n_steps * 3 // 10 + np.arange(-3, 4),
         n_steps * 7 // 10 + np.arange(-3, 4)]
    )  # fmt: skip
    steps = steps[(steps >= 0) & (steps < n_steps)]

    def at(step):
        return cases.total(logits, truth, weight, loss, step / n_steps)

    found = jax.jit(jax.vmap(at))(jnp.asarray(steps, jnp.int32))
    done = [fractions.Fraction(int(t), n_steps) * 10 for t in steps]
    true = [1 + (share >= 3) + (share >= 7) for share in done]
    np.testing.assert_allclose(found / found[0], true, rtol=1e-5)


def test_a_training_changes_its_loss_at_the_step_alone():
    knobs = config.replace(
        config.Config(),
        {
            "model.width": 4,
            "model.depth": 0,
            "train.batch_size": 2,
            "train.augment": False,
            "loss.terms": "cross_entropy, from 0.5: dice",
        },
    )
    state, phased = step.create(knobs, 4, mesh.make())
    kept = jax.device_get(state)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (2, 8, 8, 1)).astype(np.uint8)
    batch = {
        "image": image,
        "classes": (image[..., 0] > 99).astype(np.uint8),
        "stats": np.stack([normalize.measure(x) for x in image]),
        "weight": np.ones(2, np.float32),
    }

    def first(terms):
        loss = config.replace(knobs, {"loss.terms": terms})
        fresh, train_step = step.create(loss, 4, mesh.make())
        return float(train_step(fresh, batch)[1]["loss"])

    true = [first("cross_entropy"), first("dice")]
    for t in range(4):
        # nothing but the step of a state that is restored tells the phase
        restored = jax.device_put(kept | {"step": jnp.int32(t)})
        found = float(phased(restored, batch)[1]["loss"])
        assert found == pytest.approx(true[t >= 2], rel=1e-5)
