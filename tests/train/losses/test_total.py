"""What holds for every term, and for their sums."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg import config
from seg.train import losses
from tests.train.losses import cases

# --- Empty masks, ignored pixels, padding: every term


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("chosen", ["present", "all"])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_masks_of_one_value_give_finite_losses(n_classes, chosen, per_image):
    logits, truth = cases.sample(n_classes)
    for fill in (0, 1, losses.IGNORE):
        truth[:] = fill
        found = cases.every(logits, truth, per_image=per_image, classes=chosen)
        for name, (result, grads) in found.items():
            assert np.isfinite(result), (name, fill)
            assert np.isfinite(grads).all(), (name, fill)
            if fill == losses.IGNORE:
                assert result == 0, name
                assert not grads.any(), name


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_ignored_pixels_change_nothing(n_classes, per_image):
    logits, truth = cases.sample(n_classes)
    knobs = {"per_image": per_image}
    if per_image:
        knobs |= cases.unlike(n_classes)
    true = cases.every(logits, truth, **knobs)
    for junk in (37.0, np.inf, np.nan):
        spoilt = logits.copy()
        spoilt[truth == losses.IGNORE] = junk
        found = cases.every(spoilt, truth, **knobs)
        for name in true:
            for a, b in zip(found[name], true[name], strict=True):
                np.testing.assert_array_equal(a, b, name)
    for _, grads in true.values():
        assert not grads[truth == losses.IGNORE].any()


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_padding_counts_as_an_image_without_annotation(n_classes, per_image):
    logits, truth = cases.sample(n_classes)
    weight = np.array([1, 1, 0], np.float32)
    padded = cases.every(logits, truth, weight, per_image=per_image)
    truth[2] = losses.IGNORE
    true = cases.every(logits, truth, per_image=per_image)
    for name, (result, grads) in padded.items():
        assert result == true[name][0], name
        assert not grads[2].any(), name


def test_per_image_is_the_mean_of_the_images_that_are_there():
    logits, truth = cases.sample(1)
    weight = np.array([1, 1, 0], np.float32)
    found = cases.every(logits, truth, weight, per_image=True)
    whole = cases.every(logits, truth, weight)
    parts = [
        cases.every(logits, truth, np.float32(np.arange(3) == b))
        for b in (0, 1)
    ]
    for name in (*cases.REGIONS, *cases.LOVASZ[1]):
        mean = np.mean([part[name][0] for part in parts])
        assert found[name][0] == pytest.approx(mean, rel=1e-5)
        assert found[name][0] != pytest.approx(whole[name][0], rel=1e-4)


@pytest.mark.parametrize("n_classes", [1, 3])
def test_the_order_of_the_pixels_counts_at_boundaries_only(n_classes):
    logits, truth = cases.sample(n_classes)
    order = np.random.default_rng(1).permutation(truth.size)
    moved = [
        x.reshape(truth.size, -1)[order].reshape(x.shape)
        for x in (logits, truth)
    ]
    found = cases.every(*moved, boundary_width=3)
    true = cases.every(logits, truth, boundary_width=3)
    for name, (result, grads) in found.items():
        if name == "boundary_cross_entropy":
            assert result != pytest.approx(true[name][0], rel=1e-4)
            continue
        assert result == pytest.approx(true[name][0], rel=1e-5), name
        grads = grads.reshape(truth.size, -1)[np.argsort(order)]
        np.testing.assert_allclose(
            grads, true[name][1].reshape(grads.shape), atol=1e-7, err_msg=name
        )


def test_a_softmax_of_two_is_a_sigmoid_of_the_difference():
    logits, truth = cases.sample(2)
    two = cases.every(logits, truth, names=cases.SOFTMAX, classes="1")
    one = cases.every(logits[..., 1:] - logits[..., :1], truth, classes="1")
    for name in cases.SOFTMAX:
        same = "lovasz_sigmoid" if name == "lovasz_softmax" else name
        assert two[name][0] == pytest.approx(one[same][0], rel=1e-5), name


# --- Sums, dtypes, jit, devices


def test_total_is_the_weighted_sum():
    logits, truth = cases.sample(3)
    found = cases.value(logits, truth, " 2*dice+ 0.5 * focal + 1e+1*dice")
    parts = cases.every(logits, truth)
    true = 12 * parts["dice"][0] + 0.5 * parts["focal"][0]
    assert found == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("n_classes", [1, 3])
def test_bfloat16_is_computed_in_float32(n_classes):
    logits, truth = cases.sample(n_classes)
    half = jnp.asarray(logits, jnp.bfloat16)
    found = cases.every(half, truth)
    for name, (true, _) in cases.every(half.astype(jnp.float32), truth).items():
        result, grads = found[name]
        assert result.dtype == np.float32
        assert grads.dtype == jnp.bfloat16
        assert result == pytest.approx(true, rel=1e-6), name
        assert np.isfinite(np.float32(grads)).all(), name


@pytest.mark.parametrize(
    ("n_classes", "terms"),
    [
        (1, "boundary_cross_entropy + generalized_dice + lovasz_symmetric"),
        (3, "focal + tversky + lovasz_softmax"),
    ],
)
def test_jit_changes_nothing(n_classes, terms):
    logits, truth = cases.sample(n_classes)
    weight = np.ones(len(logits), np.float32)
    plain = cases.total(logits, truth, weight, config.Loss(terms=terms))
    found = cases.value(logits, truth, terms)
    assert found == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("unlike", [False, True])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_extreme_logits_stay_finite(n_classes, unlike):
    logits, truth = cases.sample(n_classes)
    knobs = cases.unlike(n_classes) if unlike else {}
    for size in (30, 1e6):
        found = cases.every(np.float32(size) * logits, truth, **knobs)
        for name, (result, grads) in found.items():
            assert np.isfinite(result), name
            assert np.isfinite(grads).all(), name


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_every_term_lowers_for_an_accelerator(platform):
    for n_classes, names in ((1, cases.SIGMOID), (3, cases.SOFTMAX)):
        logits, truth = cases.sample(n_classes)
        step = jax.grad(cases.total)
        exported = jax.export.export(
            jax.jit(step, static_argnums=3), platforms=[platform]
        )(
            jnp.asarray(logits),
            truth,
            np.ones(len(logits), np.float32),
            config.Loss(terms=" + ".join(names), **cases.unlike(n_classes)),
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
    (1, "dice + lovasz_symmetric + lovasz_sigmoid + boundary_cross_entropy"),
    (3, "dice, from 0.2: cross_entropy + generalized_dice + lovasz_softmax"),
):
    z = rng.normal(size=(8, 4, 4, k)).astype(np.float32)
    c = rng.integers(0, max(k, 2), (8, 4, 4)).astype(np.uint8)
    c[0, :2] = 255
    w = np.array([1] * 6 + [0] * 2, np.float32)
    for per_image in (False, True):
        loss = config.Loss(terms=terms, per_image=per_image)
        f = jax.jit(jax.value_and_grad(
            lambda z, c, w, p: losses.total({"classes": z}, c, w, loss, p)))
        p = np.float32(0.5)
        one = f(z, c, w, p)
        many = f(*(jax.device_put(x, rows) for x in (z, c, w)), p)
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
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr[-2000:]


# --- The map that keeps objects apart


def test_the_map_is_taught_by_cross_entropy_less_its_least():
    logits, truth = cases.sample(1)
    rng = np.random.default_rng(1)
    z = rng.normal(size=(*truth.shape, 1)).astype(np.float32)
    target = (rng.integers(0, 256, truth.shape) / 255).astype(np.float32)
    target[rng.random(truth.shape) < 0.5] = 0
    weight = np.array([1, 0.5, 0], np.float32)
    loss = config.Loss(terms="cross_entropy", objects=0.3)

    def total(z, target):
        outputs = {"classes": logits, "objects": z}
        return losses.total(outputs, truth, weight, loss, 0.0, target)

    p, q = target.astype(float), 1 / (1 + np.exp(-z[..., 0].astype(float)))
    mask = (truth != losses.IGNORE) * weight[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.nan_to_num(p * np.log(p / q)) + np.nan_to_num(
            (1 - p) * np.log((1 - p) / (1 - q))
        )
    plain = losses.total({"classes": logits}, truth, weight, loss, 0.0)
    near = rng.random(truth.shape).astype(np.float32) ** 9

    def wanted(touching):
        counts = mask * np.where(target > 0, 1 + touching * near, 1)
        means = [
            (divergence * counts)[where].sum() / counts[where].sum()
            for where in (target > 0, target == 0)
        ]
        return float(plain + 0.3 * np.mean(means))

    assert float(total(z, target)) == pytest.approx(wanted(0), rel=1e-5)
    outputs = {"classes": logits, "objects": z}
    touching = dataclasses.replace(loss, touching=4.0)
    value = losses.total(outputs, truth, weight, touching, 0.0, target, near)
    assert float(value) == pytest.approx(wanted(4), rel=1e-5)
    assert wanted(4) != pytest.approx(wanted(0), rel=1e-4)
    exact = np.log(p.clip(1e-9) / (1 - p).clip(1e-9))[..., None]
    value = float(total(exact.astype("f4"), target))
    assert value == pytest.approx(float(plain), abs=1e-5)

    hidden = z.copy()
    hidden[mask == 0] = np.nan
    value, grads = jax.value_and_grad(total)(hidden, target)
    assert value == total(z, target)
    assert np.isfinite(grads).all() and not grads[mask == 0].any()


# --- Heads on inner levels


def jitted(terms):
    """(outputs, truth, weight) -> value and gradient."""
    loss = config.Loss(terms=terms)
    return jax.jit(
        jax.value_and_grad(
            lambda *args: losses.total(*args, loss, np.float32(0.5))
        ),
        compiler_options=cases.QUICK,
    )


def heads(n_classes, strides, seed=0):
    """Outputs with a head for each stride, a truth, and what each sees."""
    logits, truth = cases.sample(n_classes, seed, (2, 8, 12))
    rng = np.random.default_rng(seed)
    aux = [
        rng.normal(size=(2, 8 // s, 12 // s, n_classes)).astype(np.float32)
        for s in strides
    ]
    each = [(logits, truth)]
    each += [
        (z, truth[:, s // 2 :: s, s // 2 :: s])
        for z, s in zip(aux, strides, strict=True)
    ]
    return {"classes": logits, "aux": aux}, truth, each


@pytest.mark.parametrize(
    ("n_classes", "strides"), [(1, ()), (1, (2,)), (3, (1, 2, 4))]
)
def test_inner_heads_weigh_by_their_size(n_classes, strides):
    outputs, truth, each = heads(n_classes, strides)
    weight = np.array([1, 0], np.float32)
    terms = "cross_entropy + 0.5*dice"
    value, grads = jitted(terms)(outputs, truth, weight)
    shares = np.array([1.0, *(1 / s for s in strides)])
    shares /= shares.sum()
    found = [cases.every(*x, weight, [terms])[terms] for x in each]
    true = sum(w * part for w, (part, _) in zip(shares, found, strict=True))
    assert value == pytest.approx(float(true), rel=1e-5)
    for grad, w, (_, part) in zip(
        [grads["classes"], *grads["aux"]], shares, found, strict=True
    ):
        np.testing.assert_allclose(grad, w * part, atol=1e-7)


def test_what_is_not_annotated_stays_so_for_inner_heads():
    outputs, truth, _ = heads(3, (2, 4))
    truth[:, 2::4, 2::4] = losses.IGNORE
    outputs["aux"][0][truth[:, 1::2, 1::2] == losses.IGNORE] = np.nan
    outputs["aux"][1][:] = np.nan
    value, grads = jitted("dice")(outputs, truth, np.ones(2, np.float32))
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert not grads["aux"][1].any()


@pytest.mark.parametrize("s", [2, 4, 8])
def test_inner_heads_learn_objects_where_they_are(s):
    """The loss is least for the map that is not displaced."""
    rng = np.random.default_rng(s)
    rows, cols = np.mgrid[:64, :64]
    truth = np.zeros((4, 64, 64), np.uint8)
    for image, middle in zip(truth, rng.uniform(20, 44, (4, 2)), strict=True):
        image[(rows - middle[0]) ** 2 + (cols - middle[1]) ** 2 < 14**2] = 1
    share = truth.reshape(4, 64 // s, s, 64 // s, s).mean((2, 4))
    found = {}
    for shift in (-1, 0, 1):
        moved = np.roll(share, (shift, shift), (1, 2))[..., None]
        outputs = {
            "classes": np.zeros((4, 64, 64, 1), np.float32),
            "aux": [np.float32(8 * moved - 4)],
        }
        value, _ = jitted("dice")(outputs, truth, np.ones(4, np.float32))
        found[shift] = float(value)
    assert found[0] < min(found[-1], found[1])
    assert found[-1] == pytest.approx(found[1], rel=0.15)


def test_inner_heads_follow_the_phases():
    outputs, truth, _ = heads(3, (1, 2))
    weight = np.ones(2, np.float32)
    phased = "focal, from 0.5: dice, from 0.8: lovasz_softmax"
    found, true = (
        jitted(terms)(outputs, truth, weight) for terms in (phased, "dice")
    )
    for a, b in zip(*map(jax.tree.leaves, (found, true)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
