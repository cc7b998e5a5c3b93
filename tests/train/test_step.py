"""Claims about a step of training: a function of (state, batch), and which."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from jax import export

from seg import config, normalize
from seg.predict.engine import xla
from seg.train import losses, mesh, step

PLAIN = {
    "model.width": 4,
    "model.depth": 0,
    "data.normalize": "range",
    "optim.name": "sgd",
    "optim.learning_rate": 0.1,
    "optim.schedule": "constant",
    "optim.warmup_frac": 0.0,
    "train.batch_size": 4,
    "train.augment": False,
}
N_STEPS = 50


def configured(**changes):
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    return config.replace(config.Config(), PLAIN | changes)


@functools.cache
def made(knobs):
    """A fresh state on the host, and the step."""
    state, train_step = step.create(knobs, N_STEPS, mesh.make())
    return jax.device_get(state), train_step


def start(**changes):
    """As `step.create`, compiled once for a config."""
    state, train_step = made(configured(**changes))
    return put(state), train_step


def put(state):
    return jax.device_put(state, mesh.replicated(mesh.make()))


def drawn(n=4, side=16, seed=0, n_channels=1):
    """A batch of bright squares on dark noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (n, side, side, n_channels)).astype(np.uint8)
    classes = np.zeros((n, side, side), np.uint8)
    for i, (row, column) in enumerate(rng.integers(0, side // 2, (n, 2))):
        square = slice(row, row + side // 2), slice(column, column + side // 2)
        image[i][square] += 150
        classes[i][square] = 1
    return {
        "image": image,
        "classes": classes,
        "stats": np.stack([normalize.measure(plane) for plane in image]),
        "weight": np.ones(n, np.float32),
    }


def run(state, train_step, batches):
    """The last state, on the host, and all losses."""
    losses = []
    for batch in batches:
        state, metrics = train_step(state, batch)
        losses.append(float(metrics["loss"]))
    return jax.device_get(state), losses


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def largest_difference(a, b):
    gaps = jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)
    return max(jax.tree.leaves(gaps))


EVERYTHING = {
    "model__depth": 1,
    "model__norm": "batch",
    "optim__name": "adamw",
    "optim__ema": 0.9,
    "train__augment": True,
}


# -------------------------------------------------------------- determinism
def test_the_same_seed_gives_the_same_bits():
    runs = []
    for _ in range(2):
        made_now = step.create(configured(**EVERYTHING), N_STEPS, mesh.make())
        runs.append(run(*made_now, [drawn(seed=s) for s in range(3)]))
    assert_same(*runs)


def test_a_state_from_the_host_goes_on_bit_for_bit():
    state, train_step = start(**EVERYTHING)
    batches = [drawn(seed=s) for s in range(4)]
    whole, _ = run(state, train_step, batches)
    state, _ = start(**EVERYTHING)
    half, _ = run(state, train_step, batches[:2])
    resumed, _ = run(put(half), train_step, batches[2:])
    assert_same(resumed, whole)


def test_dropout_depends_on_seed_and_step_alone():
    still = {"model__dropout": 0.5, "optim__learning_rate": 0.0}
    batch = drawn()
    state, train_step = start(**still)
    after, losses = run(state, train_step, [batch] * 3)
    assert_same(after["params"], start(**still)[0]["params"])
    assert len(set(losses)) == 3
    # a step's loss needs nothing of the steps before it
    state, _ = start(**still)
    state["step"] = put(np.int32(2))
    assert run(state, train_step, [batch])[1] == losses[2:]
    # the same weights under another seed drop other features
    state, _ = start(**still)
    other_state, other = start(train__seed=1, **still)
    gap = largest_difference(other_state["params"], state["params"])
    assert gap > 0.01  # and of its own it starts with others
    assert run(state, other, [batch])[1] != losses[:1]


def test_augmentation_differs_from_step_to_step():
    losses = []
    for at in range(3):
        state, train_step = start(**EVERYTHING)
        state["step"] = put(np.int32(at))
        losses += run(state, train_step, [drawn()])[1]
    assert len(set(losses)) == 3


# ----------------------------------------------------------------- learning
def test_the_loss_falls():
    knobs = EVERYTHING | {"optim__learning_rate": 0.02}
    state, losses = run(*start(**knobs), [drawn()] * 40)
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
    assert state["step"] == 40


def test_one_step_is_plain_gradient_descent():
    changes = {"optim__momentum": 0.0, "optim__clip_norm": 0.0}
    changes |= {"optim__nesterov": False, "loss__terms": "cross_entropy"}
    state, train_step = start(**changes)
    before, batch = jax.device_get(state), drawn()
    after, metrics = train_step(state, batch)
    knobs = configured(**changes)

    def loss(params):
        model = nnx.merge(graph_of(knobs), params, before["stats"])
        image = normalize.apply(batch["image"], batch["stats"], "range")
        z = model(image)["classes"][..., 0]
        y = batch["classes"]
        return (jax.nn.softplus(z) - z * y).mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(before["params"])
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    jax.tree.map(
        lambda p, g, q: np.testing.assert_allclose(q, p - 0.1 * g, atol=1e-5),
        before["params"],
        grads,
        after["params"],
    )


def graph_of(knobs):
    from seg import models

    return nnx.graphdef(
        nnx.eval_shape(lambda: models.build(knobs.model, nnx.Rngs(0)))
    )


# ------------------------------------------------------------------ padding
@pytest.mark.parametrize("norm", ["none", "group"])
def test_a_sample_of_weight_0_changes_nothing(norm):
    # the statistics of a batch norm see it, as all of the batch
    knobs = {"model__norm": norm}
    batch, other = drawn(seed=1), drawn(seed=2)
    batch["weight"][2:] = 0
    for name in ("image", "classes", "stats"):
        other[name][:2] = batch[name][:2]
    other["weight"] = batch["weight"]
    a, losses_a = run(*start(**knobs), [batch] * 2)
    b, losses_b = run(*start(**knobs), [other] * 2)
    assert losses_a == losses_b
    assert_same(a, b)


def test_padding_is_as_if_it_were_not_there():
    whole = drawn()
    part = {name: value[:2] for name, value in whole.items()}
    whole["weight"][2:] = 0
    # the same function, which is compiled anew for the smaller batch
    a, losses_a = run(*start(), [whole] * 2)
    b, losses_b = run(*start(), [part] * 2)
    np.testing.assert_allclose(losses_a, losses_b, rtol=1e-5)
    assert largest_difference(a["params"], b["params"]) < 1e-5


def test_a_batch_of_weight_0_is_a_loss_of_0():
    state, train_step = start()
    before = jax.device_get(state["params"])
    batch = drawn()
    batch["weight"][:] = 0
    after, losses = run(state, train_step, [batch])
    assert losses == [0.0]
    assert_same(after["params"], before)


# --------------------------------------------------------------------- state
def test_the_old_state_is_used_up():
    state, train_step = start(**EVERYTHING)
    train_step(state, drawn())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_the_average_moves_by_its_equation():
    state, train_step = start(**EVERYTHING)
    for t in range(3):
        before = jax.device_get(state)
        state, _ = train_step(state, drawn(seed=t))
        d = min(0.9, (1 + t) / (10 + t))
        jax.tree.map(
            lambda e, p, found, d=d: np.testing.assert_allclose(
                found, d * e + (1 - d) * p, rtol=1e-5, atol=1e-7
            ),
            before["ema"],
            {"params": state["params"], "stats": state["stats"]},
            state["ema"],
        )


def test_predictions_use_the_averaged_weights_where_there_are_any():
    batch = drawn()
    state, _ = run(*start(**EVERYTHING), [batch] * 2)
    found = step.weights(state)
    assert_same(nnx.filter_state(found, nnx.Param), state["ema"]["params"])
    assert_same(nnx.filter_state(found, nnx.BatchStat), state["ema"]["stats"])
    plain, _ = run(*start(), [batch])
    assert plain["ema"] is None
    assert_same(step.weights(plain), plain["params"])


def test_running_statistics_move_towards_the_batchs():
    fresh, _ = start(**EVERYTHING)
    fresh = jax.device_get(fresh)
    state, _ = run(*start(**EVERYTHING), [drawn()])
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max() > 0, state["stats"], fresh["stats"]
    )
    assert all(jax.tree.leaves(moved))


def test_bfloat16_keeps_everything_in_float32_and_learns_alike():
    full, (loss,) = run(*start(), [drawn()])
    half, (close,) = run(*start(model__dtype="bfloat16"), [drawn()])
    kinds = jax.tree.map(lambda a, b: a.dtype == b.dtype, full, half)
    assert all(jax.tree.leaves(kinds))
    assert close == pytest.approx(loss, rel=0.02)
    assert close != loss


# ------------------------------------------------------------------- refusals
def test_a_loss_that_does_not_fit_the_classes_is_refused():
    with pytest.raises(config.ConfigError, match="lovasz_softmax needs"):
        start(loss__terms="lovasz_softmax")


# ------------------------------------------------- accelerators, none at hand
COLOUR = {
    "model__in_channels": 3,
    "model__n_classes": 3,
    "classes": ("background", "a", "b"),
    "loss__terms": "cross_entropy + lovasz_softmax + dice + focal",
    "model__stem": 2,
    "model__dtype": "bfloat16",
    "augment__rotate": 0.5,
    "augment__blur": 0.5,
}


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", ["unet", "unet_small"])
def test_the_step_lowers_for_accelerators(platform, name):
    changes = EVERYTHING | COLOUR
    state, train_step = start(model__name=name, **changes)
    batch = drawn(n_channels=3)
    program = export.export(train_step, platforms=[platform])(state, batch)
    assert program.platforms == (platform,)
    assert "convolution" in program.mlir_module()
    shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    found = [(x.shape, x.dtype) for x in program.out_avals]
    assert len(found) == len(shapes) + 2  # the loss and the gradient's norm
    assert set(shapes) <= set(found)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", ["unet", "unet_small"])
def test_the_prediction_lowers_for_accelerators(platform, name):
    from seg import models

    knobs = configured(model__name=name, **EVERYTHING | COLOUR)
    model = models.build(knobs.model, nnx.Rngs(0))
    graph, state = xla.split(model)
    program = export.export(
        jax.jit(xla.apply, static_argnums=(0, 1)), platforms=[platform]
    )(
        graph,
        "percentile",
        state,
        jax.ShapeDtypeStruct((2, 32, 48, 3), np.float32),
        jax.ShapeDtypeStruct((2, 3, 7), np.float32),
    )
    assert program.platforms == (platform,)
    assert program.out_avals[0].shape == (2, 32, 48, 3)


# ------------------------------------------------------------- frozen parts
FROZEN = EVERYTHING | {
    "optim__rates": ("down=0", "down.1.conv1=0.5"),
    "optim__weight_decay": 0.1,
    "train__augment": False,
}


def in_frozen(path):
    return path[0] == "down" and path[:3] != ("down", 1, "conv1")


def test_a_frozen_part_keeps_every_bit_and_the_rest_learns():
    state, train_step = start(**FROZEN)
    before = jax.device_get(state)
    after, _ = run(state, train_step, [drawn(seed=s) for s in range(3)])
    for kind in ("params", "stats"):
        old = dict(nnx.to_flat_state(before[kind]))
        for path, value in nnx.to_flat_state(after[kind]):
            same = np.array_equal(value[...], old[path][...])
            assert same == in_frozen(path), path
    averaged = dict(nnx.to_flat_state(after["ema"]["params"]))
    for path, value in nnx.to_flat_state(after["params"]):
        assert np.array_equal(value[...], averaged[path][...]) == in_frozen(
            path
        )
    # and costs the optimiser nothing
    n_learned = len(
        [p for p, _ in nnx.to_flat_state(after["params"]) if not in_frozen(p)]
    )
    moments = [x for x in jax.tree.leaves(after["opt"]) if x.ndim]
    assert len(moments) == 2 * n_learned


def test_a_frozen_norm_uses_its_running_statistics():
    state, train_step = start(**FROZEN)
    host, batch = jax.device_get(state), drawn()
    host["stats"] = jax.tree.map(lambda s: s + 0.3, host["stats"])
    knobs = configured(**FROZEN)

    def loss(freeze):
        model = nnx.merge(
            graph_of(knobs), host["params"], host["stats"], copy=True
        )
        for block in model.down if freeze else ():
            block.norm1.use_running_average = True
            block.norm2.use_running_average = True
        image = normalize.apply(batch["image"], batch["stats"], "range")
        weight = batch["weight"]
        return losses.total(
            model(image), batch["classes"], weight, knobs.loss, 0.0
        )

    _, metrics = train_step(put(host), batch)
    np.testing.assert_allclose(metrics["loss"], loss(True), rtol=1e-4)
    assert abs(metrics["loss"] - loss(False)) > 0.01


def test_the_map_that_keeps_objects_apart_is_learned_and_turned_with_them():
    knobs = EVERYTHING | {
        "model__objects": "interior", "optim__learning_rate": 0.03,
        "loss__terms": "cross_entropy",
    }  # fmt: skip

    def tile(seed):
        batch = drawn(seed=seed)
        return batch | {"labels": batch["classes"].astype(np.int32)}

    batches = [tile(seed) for seed in range(N_STEPS)]
    _, found = run(*start(**knobs), batches)
    assert np.mean(found[-5:]) < 0.6 * np.mean(found[:5])
    _, alone = run(*start(**knobs | {"model__objects": "none"}), batches)
    assert all(a < f for a, f in zip(alone[:3], found[:3], strict=True))
    # taught what it cannot see, it learns less: labels that did not turn along
    still = [
        batch | {"labels": np.roll(batch["labels"], 8, 2)} for batch in batches
    ]
    _, blind = run(*start(**knobs), still)
    assert np.mean(blind[-5:]) > np.mean(found[-5:])
    # the first loss with weights for what touches: none does, then all do
    halves = batches[0]["labels"].copy()
    halves[:, :, halves.shape[2] // 2 :] *= 2
    for labels, same in ((batches[0]["labels"], True), (halves, False)):
        first, weighed = (
            run(
                *start(**knobs | {"loss__touching": touching}),
                [batches[0] | {"labels": labels}],
            )[1][0]
            for touching in (0.0, 50.0)
        )
        assert (weighed == pytest.approx(first, rel=1e-6)) == same


def test_a_part_of_the_network_that_is_not_there_is_refused():
    with pytest.raises(config.ConfigError, match="did you mean down"):
        start(optim__rates=("dwon=0",))


def test_a_state_starts_from_the_weights_of_a_network():
    from seg import models

    knobs = configured(**EVERYTHING)
    network = models.build(knobs.model, nnx.Rngs(7))
    state, train_step = start(**EVERYTHING)
    state = step.started(state, network)
    wanted = jax.device_get(nnx.state(network, nnx.Param))
    assert_same(jax.device_get(state["params"]), wanted)
    assert_same(jax.device_get(state["ema"]["params"]), wanted)
    run(state, train_step, [drawn()] * 2)  # no two leaves share memory
    assert_same(jax.device_get(nnx.state(network, nnx.Param)), wanted)
