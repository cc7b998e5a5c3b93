"""The losses against definitions written out in NumPy, and against optax."""

import dataclasses
import functools
import itertools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seg import config
from seg.train import losses

BOTH = [
    "cross_entropy", "boundary_cross_entropy", "focal", "dice", "log_cosh_dice",
    "generalized_dice", "tversky", "focal_tversky",
]  # fmt: skip
SIGMOID = [
    *BOTH, "binary_cross_entropy", "lovasz_hinge", "lovasz_symmetric",
    "lovasz_sigmoid",
]  # fmt: skip
SOFTMAX = [*BOTH, "lovasz_softmax"]
EVERY = [(1, name) for name in SIGMOID] + [(3, name) for name in SOFTMAX]
LOVASZ = {1: ["lovasz_hinge", "lovasz_sigmoid"], 3: ["lovasz_softmax"]}


SHAPE = (3, 4, 5)
# compiling is most of what these tests do
QUICK = {"xla_backend_optimization_level": 0}


def sample(n_classes, seed=0, shape=SHAPE, ignored=0.2):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(*shape, n_classes)).astype(np.float32)
    truth = rng.integers(0, max(n_classes, 2), shape).astype(np.uint8)
    truth[rng.random(shape) < ignored] = losses.IGNORE
    return logits, truth


def total(logits, classes, weight, loss, progress=0.0):
    outputs = {"classes": logits}
    return losses.total(outputs, classes, weight, loss, progress)


@functools.cache
def _jitted(names, knobs):
    """(logits, truth, weight) -> {name: (value, gradient)}, compiled once."""
    terms = {name: dataclasses.replace(knobs, terms=name) for name in names}

    def run(logits, truth, weight):
        return {
            name: jax.value_and_grad(total)(logits, truth, weight, loss)
            for name, loss in terms.items()
        }

    return jax.jit(run, compiler_options=QUICK)


def every(logits, truth, weight=None, names=None, **knobs):
    """{name: (value, gradient)} of the terms that fit the logits."""
    if names is None:
        names = SIGMOID if logits.shape[-1] == 1 else SOFTMAX
    if weight is None:
        weight = np.ones(len(logits), np.float32)
    f = _jitted(tuple(names), config.Loss(**knobs))
    return jax.tree.map(np.asarray, f(logits, truth, weight))


def value(logits, truth, terms, weight=None, **knobs):
    return float(every(logits, truth, weight, [terms], **knobs)[terms][0])


# --- The definitions, slowly, in float64


def jaccard_loss(truth, mistaken):
    """|M| / |{y} u M|, 0 for nothing of nothing."""
    union = (truth | mistaken).sum()
    return mistaken.sum() / union if union else 0.0


def lovasz_extension(m, truth):
    """Definition 2 of Berman et al. 2018, set by set."""
    mistaken, before, result = np.zeros(m.size, bool), 0.0, 0.0
    for i in np.argsort(-m, kind="stable"):
        mistaken[i] = True
        after = jaccard_loss(truth, mistaken)
        result += m[i] * (after - before)
        before = after
    return result


def errors(name, logits, truth):
    """Pairs (errors, truth) by class of pixels that are all annotated."""
    z = np.float64(logits)
    if name == "lovasz_softmax":
        e = np.exp(z - z.max(-1, keepdims=True))
        p = e / e.sum(-1, keepdims=True)
        for k in range(z.shape[-1]):
            yield np.abs((truth == k) - p[..., k]), truth == k
    else:
        z, y = z[..., 0], truth > 0
        if name == "lovasz_hinge":
            yield np.maximum(1 - z * np.where(y, 1, -1), 0), y
        else:
            yield np.abs(y - 1 / (1 + np.exp(-z))), y


def lovasz_loss(name, logits, truth, per_image=False, chosen="present"):
    if per_image:
        parts = [
            lovasz_loss(name, z[None], c[None], chosen=chosen)
            for z, c in zip(logits, truth, strict=True)
        ]
        return np.mean([part for part in parts if part is not None])
    valid = truth != losses.IGNORE
    found = [
        (k, lovasz_extension(m, y), y.any())
        for k, (m, y) in enumerate(errors(name, logits[valid], truth[valid]))
    ]
    if chosen == "present":
        found = [item for item in found if item[2]]
    elif chosen != "all":
        listed = [int(k) - (logits.shape[-1] == 1) for k in chosen.split(",")]
        found = [item for item in found if item[0] in listed]
    return np.mean([item[1] for item in found]) if found else None


# --- Lovasz


def pairs(n_classes):
    """Every labelling of 2 x 2 px, beside every other: two [N, 1, 2, 2]."""
    each = np.array(list(itertools.product(range(n_classes), repeat=4)))
    two = np.repeat(each, len(each), 0), np.tile(each, (len(each), 1))
    return [x.reshape(-1, 1, 2, 2).astype(np.uint8) for x in two]


def one_by_one(logits, truth, terms, **knobs):
    """The loss [N] of each of N batches."""
    loss, weight = config.Loss(terms=terms, **knobs), np.ones(1, np.float32)
    f = jax.vmap(lambda z, c: total(z, c, weight, loss))
    return np.asarray(jax.jit(f)(logits, truth))


@pytest.mark.parametrize(
    ("name", "logit", "error"),
    [("lovasz_hinge", 1, 2), ("lovasz_sigmoid", 200, 1)],
)
def test_lovasz_equals_the_jaccard_loss_on_hard_predictions(name, logit, error):
    truth, found = pairs(2)
    logits = np.where(found == 1, logit, -logit).astype(np.float32)[..., None]
    result = one_by_one(logits, truth, name, classes="all")
    true = [
        # the extension is linear in the size of the errors
        error * jaccard_loss(y == 1, y != p)
        for y, p in zip(truth, found, strict=True)
    ]
    np.testing.assert_allclose(result, true, atol=1e-6)


def test_lovasz_softmax_equals_the_mean_jaccard_loss_of_the_present():
    truth, found = pairs(3)
    logits = 200 * np.eye(3, dtype=np.float32)[found]
    result = one_by_one(logits, truth, "lovasz_softmax")
    true, n_present = np.zeros(len(truth)), np.zeros(len(truth))
    for k in range(3):
        y, p = (x.reshape(-1, 4) == k for x in (truth, found))
        loss = 1 - (y & p).sum(1) / np.maximum((y | p).sum(1), 1)
        true += loss * y.any(1)
        n_present += y.any(1)
    np.testing.assert_allclose(result, true / n_present, atol=1e-6)


@pytest.mark.parametrize("chosen", ["present", "all", "1", "0,2"])
@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_equals_its_definition(per_image, chosen):
    for seed in range(3):
        for n_classes in (1, 3):
            if n_classes == 1 and chosen == "0,2":
                continue
            logits, truth = sample(n_classes, seed)
            # one image without the last class
            truth[1][truth[1] == max(n_classes - 1, 1)] = 0
            found = every(logits, truth, per_image=per_image, classes=chosen)
            for name in LOVASZ[n_classes]:
                true = lovasz_loss(name, logits, truth, per_image, chosen)
                assert found[name][0] == pytest.approx(true, rel=1e-5), name


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_lovasz_gradient_equals_finite_differences(n_classes, per_image):
    logits, truth = sample(n_classes, 5)
    found = every(logits, truth, per_image=per_image)
    step = 1e-6
    for name in LOVASZ[n_classes]:
        true = np.zeros(logits.shape)
        for at in np.ndindex(logits.shape):
            ends = []
            for sign in (1, -1):
                moved = np.float64(logits)
                moved[at] += sign * step
                ends.append(lovasz_loss(name, moved, truth, per_image))
            true[at] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(found[name][1], true, atol=2e-6)


def test_lovasz_at_tied_errors_still_adds_up():
    # J of everything mistaken is 1, so the weights g add up to 1
    logits, truth = sample(1)
    found = every(0 * logits, truth)
    for name, error in (("lovasz_hinge", 1), ("lovasz_sigmoid", 0.5)):
        assert found[name][0] == pytest.approx(error, rel=1e-6)
        assert (found[name][1] != 0).any()


# --- Empty masks, ignored pixels, padding: every term


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("chosen", ["present", "all"])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_masks_of_one_value_give_finite_losses(n_classes, chosen, per_image):
    logits, truth = sample(n_classes)
    for fill in (0, 1, losses.IGNORE):
        truth[:] = fill
        found = every(logits, truth, per_image=per_image, classes=chosen)
        for name, (result, grads) in found.items():
            assert np.isfinite(result), (name, fill)
            assert np.isfinite(grads).all(), (name, fill)
            if fill == losses.IGNORE:
                assert result == 0, name
                assert not grads.any(), name


def test_a_mask_without_foreground_costs_its_worst_pixel_or_nothing():
    logits, truth = sample(1)
    truth[:] = 0
    found = every(logits, truth, classes="all")
    nothing = every(logits, truth, per_image=False)
    for name in LOVASZ[1]:
        ((m, _),) = errors(name, logits, truth)
        assert found[name][0] == pytest.approx(m.max(), rel=1e-5)
        assert nothing[name][0] == 0


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_ignored_pixels_change_nothing(n_classes, per_image):
    logits, truth = sample(n_classes)
    knobs = {"per_image": per_image}
    true = every(logits, truth, **knobs)
    for junk in (37.0, np.inf, np.nan):
        spoilt = logits.copy()
        spoilt[truth == losses.IGNORE] = junk
        found = every(spoilt, truth, **knobs)
        for name in true:
            for a, b in zip(found[name], true[name], strict=True):
                np.testing.assert_array_equal(a, b, name)
    for _, grads in true.values():
        assert not grads[truth == losses.IGNORE].any()


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_padding_counts_as_an_image_without_annotation(n_classes, per_image):
    logits, truth = sample(n_classes)
    weight = np.array([1, 1, 0], np.float32)
    padded = every(logits, truth, weight, per_image=per_image)
    truth[2] = losses.IGNORE
    true = every(logits, truth, per_image=per_image)
    for name, (result, grads) in padded.items():
        assert result == true[name][0], name
        assert not grads[2].any(), name


def test_per_image_is_the_mean_of_the_images_that_are_there():
    logits, truth = sample(1)
    weight = np.array([1, 1, 0], np.float32)
    found = every(logits, truth, weight, per_image=True)
    whole = every(logits, truth, weight)
    parts = [
        every(logits, truth, np.float32(np.arange(3) == b)) for b in (0, 1)
    ]
    for name in ("dice", *LOVASZ[1]):
        mean = np.mean([part[name][0] for part in parts])
        assert found[name][0] == pytest.approx(mean, rel=1e-5)
        assert found[name][0] != pytest.approx(whole[name][0], rel=1e-4)


# --- Against optax and each other


def test_cross_entropy_equals_optax():
    logits, truth = sample(3)
    true = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, np.int32(np.where(truth == losses.IGNORE, 0, truth))
    )[truth != losses.IGNORE].mean()
    found = every(logits, truth)
    assert found["cross_entropy"][0] == pytest.approx(float(true), rel=1e-5)


def test_binary_cross_entropy_equals_optax():
    logits, truth = sample(1)
    true = optax.losses.sigmoid_binary_cross_entropy(logits[..., 0], truth)
    true = float(true[truth != losses.IGNORE].mean())
    found = every(logits, truth)
    assert found["cross_entropy"][0] == pytest.approx(true, rel=1e-5)
    assert found["binary_cross_entropy"][0] == pytest.approx(true, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_equals_optax(gamma):
    logits, truth = sample(1)
    true = optax.losses.sigmoid_focal_loss(
        logits[..., 0], np.float32(truth == 1), gamma=gamma
    )[truth != losses.IGNORE].mean()
    found = value(logits, truth, "focal", focal_gamma=gamma)
    assert found == pytest.approx(float(true), rel=1e-4)


@pytest.mark.parametrize("n_classes", [1, 3])
def test_focal_without_focus_is_cross_entropy(n_classes):
    logits, truth = sample(n_classes)
    found = value(logits, truth, "focal", focal_gamma=0.0)
    true = every(logits, truth)["cross_entropy"][0]
    assert found == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("n_classes", [1, 3])
def test_focal_is_finite_where_the_network_is_sure(n_classes):
    logits, truth = sample(n_classes)
    for size in (30, 1e4):
        found = every(size * logits, truth, names=["focal"], focal_gamma=0.5)
        assert np.isfinite(found["focal"][1]).all()


@pytest.mark.parametrize("n_classes", [1, 3])
def test_dice_per_image_equals_optax(n_classes):
    logits, truth = sample(n_classes, ignored=0)
    one_hot = np.eye(max(n_classes, 2), dtype=np.float32)[truth]
    true = optax.losses.dice_loss(logits, one_hot[..., -n_classes:]).mean()
    found = every(logits, truth, per_image=True, classes="all")["dice"][0]
    assert found == pytest.approx(float(true), rel=1e-5)


def test_dice_of_two_empties_is_one():
    logits, truth = sample(1)
    logits[:], truth[:] = -100, 0
    assert value(logits, truth, "dice", classes="all") == 0
    assert value(logits, truth, "dice") == 0
    truth[:] = 1
    assert value(logits, truth, "dice") > 0.95


def test_a_softmax_of_two_is_a_sigmoid_of_the_difference():
    logits, truth = sample(2)
    two = every(logits, truth, names=SOFTMAX, classes="1")
    one = every(logits[..., 1:] - logits[..., :1], truth, classes="1")
    for name in SOFTMAX:
        same = "lovasz_sigmoid" if name == "lovasz_softmax" else name
        assert two[name][0] == pytest.approx(one[same][0], rel=1e-5), name


# --- Sums, dtypes, jit, devices


def test_total_is_the_weighted_sum():
    logits, truth = sample(3)
    found = value(logits, truth, " 2*dice+ 0.5 * focal + 1e+1*dice")
    parts = every(logits, truth)
    true = 12 * parts["dice"][0] + 0.5 * parts["focal"][0]
    assert found == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("n_classes", [1, 3])
def test_bfloat16_is_computed_in_float32(n_classes):
    logits, truth = sample(n_classes)
    half = jnp.asarray(logits, jnp.bfloat16)
    found = every(half, truth)
    for name, (true, _) in every(half.astype(jnp.float32), truth).items():
        result, grads = found[name]
        assert result.dtype == np.float32
        assert grads.dtype == jnp.bfloat16
        assert result == pytest.approx(true, rel=1e-6), name
        assert np.isfinite(np.float32(grads)).all(), name


def test_jit_changes_nothing():
    logits, truth = sample(1)
    weight, loss = np.ones(len(logits)), config.Loss(terms="lovasz_hinge")
    plain = total(logits, truth, weight, loss)
    found = every(logits, truth)["lovasz_hinge"][0]
    assert found == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("n_classes", [1, 3])
def test_extreme_logits_stay_finite(n_classes):
    logits, truth = sample(n_classes)
    for name, (result, grads) in every(1e6 * logits, truth).items():
        assert np.isfinite(result), name
        assert np.isfinite(grads).all(), name


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_every_term_lowers_for_an_accelerator(platform):
    for n_classes, names in ((1, SIGMOID), (3, SOFTMAX)):
        logits, truth = sample(n_classes)
        step = jax.grad(total)
        exported = jax.export.export(
            jax.jit(step, static_argnums=3), platforms=[platform]
        )(
            jnp.asarray(logits),
            truth,
            np.ones(len(logits), np.float32),
            config.Loss(terms=" + ".join(names)),
        )
        # 64-bit keys are for the CPU alone
        assert "ui64" not in exported.mlir_module()


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from seg import config
from seg.train import losses

rng = np.random.default_rng(0)
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))
for k, terms in (
    (1, "dice + lovasz_hinge + lovasz_sigmoid"),
    (3, "cross_entropy + dice + lovasz_softmax"),
):
    z = rng.normal(size=(8, 4, 4, k)).astype(np.float32)
    c = rng.integers(0, max(k, 2), (8, 4, 4)).astype(np.uint8)
    c[0, :2] = 255
    w = np.array([1] * 6 + [0] * 2, np.float32)
    for per_image in (False, True):
        loss = config.Loss(terms=terms, per_image=per_image)
        f = jax.jit(jax.value_and_grad(
            lambda z, c, w: losses.total({"classes": z}, c, w, loss, 0.0)))
        one, many = f(z, c, w), f(*(jax.device_put(x, rows) for x in (z, c, w)))
        assert len(many[1].sharding.device_set) == 4
        for a, b in zip(one, many):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
print("equal")
"""


def test_a_batch_over_four_devices_gives_what_one_gives():
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=4"
    flags += " --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr[-2000:]


# --- The configuration


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
        (1, {"terms": "lovasz_softmax"}, "2 or more"),
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
    assert {name for _, name in EVERY} == set(losses.TERMS)
    for n_classes, name in EVERY:
        losses.check_terms(config.Loss(terms=name, classes="1"), n_classes)
