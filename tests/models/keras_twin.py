"""What tests against a network in Keras share: random weights, both ways."""

import functools
import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
from flax import nnx

from seg import config, models

L = keras.layers


def build(name, seed=0, **knobs):
    return models.build(config.Model(name=name, **knobs), nnx.Rngs(seed))


def empty(name, **knobs):
    """A network without values, which `copy` brings, in no time."""
    return nnx.eval_shape(lambda: build(name, **knobs))


def predicting(model):
    return nnx.view(
        model,
        use_running_average=True,
        deterministic=True,
        raise_if_not_found=False,
    )


def forward(model, x):
    """What the model gives in prediction, as one program."""
    return _run(*nnx.split(predicting(model)), x)


@functools.partial(jax.jit, static_argnums=0)
def _run(graph, state, x):
    return nnx.merge(graph, state)(x)


def trained(theirs, ours, x):
    """Logits in training of both, and the means and variances they leave."""
    graph, state = nnx.split(ours)

    @jax.jit
    def train(state, x):
        model = nnx.merge(graph, state)
        return model(x)["classes"], nnx.state(model)

    found, state = train(state, x)
    after = nnx.merge(graph, state)
    stats = (
        [v.value for v in theirs.trainable_variables],
        [v.value for v in theirs.non_trainable_variables],
    )
    step = jax.jit(lambda *a: theirs.stateless_call(*a, training=True))
    wanted, changed = step(*stats, x)
    names = [v.path for v in theirs.non_trainable_variables]
    return found, wanted, after, dict(zip(names, changed, strict=True))


def drawn(model, seed=5):
    """An abstract model with random values, none of them large."""
    rng = np.random.default_rng(seed)
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.update(
        model,
        jax.tree.map(
            lambda x: jnp.asarray(rng.uniform(0.01, 0.1, x.shape), x.dtype),
            state,
        ),
    )
    return model


def n_values(name, **knobs):
    """Number of weights and running statistics."""
    model = empty(name, **knobs)
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return sum(x.size for x in jax.tree.leaves(state))


def image(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def randomise(source, seed=3):
    """New weights for a Keras model: signals keep their size, statistics are
    those of no batch.
    """
    rng = np.random.default_rng(seed)
    for layer in source.layers:
        weights = []
        for variable in layer.weights:
            shape, kind = variable.shape, variable.path.split("/")[-1]
            if kind in ("gamma", "moving_variance"):
                weights.append(rng.uniform(0.7, 1.2, shape))
            elif len(shape) == 1:
                weights.append(rng.normal(0, 0.2, shape))
            else:
                n_in = shape[2]
                if "depthwise" in kind or layer.name.endswith("depthwise"):
                    n_in = 1
                if isinstance(layer, L.Conv2DTranspose):
                    n_in = shape[3] / 4
                fan = shape[0] * shape[1] * n_in
                weights.append(rng.normal(0, np.sqrt(1.5 / fan), shape))
        if weights:
            layer.set_weights(weights)


def copy(theirs, ours):
    """A Keras layer's weights into the variables that hold them here."""
    weights = [np.asarray(v.value) for v in theirs.weights]
    if isinstance(theirs, L.Conv2DTranspose):  # (.., out, in)
        weights[0] = weights[0].transpose(0, 1, 3, 2)
    for weight, variable in zip(weights, ours, strict=True):
        if weight.shape == (*variable.shape, 1):  # depthwise
            weight = weight[..., 0]
        assert weight.shape == variable.shape, theirs.name
        variable.set_value(jnp.asarray(weight))


def copy_in_order(theirs, ours):
    """Keras layers and ours, both in the order of the signal."""
    for source, layer in zip(theirs, ours, strict=True):
        copy(source, variables(layer))


def copy_encoder(source, encoder):
    """The layers of `source`, an encoder in Keras, by name.

    Keras numbers its shortcuts on and on, model after model.
    """
    layers = {layer.name: layer for layer in source.layers if layer.weights}
    ours = encoder.keras_layers()
    for kind in ("conv2d", "batch_normalization"):
        pattern = re.compile(rf"{kind}(_\d+)?")
        found, wanted = (
            sorted(filter(pattern.fullmatch, names), key=lambda n: (len(n), n))
            for names in (layers, ours)
        )
        for name, theirs in zip(wanted, found, strict=False):
            layers[name] = layers.pop(theirs)
    for name, weights in ours.items():
        copy(layers[name], weights)


def variables(layer):
    """The variables of a layer in Keras' order."""
    if hasattr(layer, "keras_weights"):
        return layer.keras_weights()
    return [layer.kernel] + ([layer.bias] if layer.bias is not None else [])
