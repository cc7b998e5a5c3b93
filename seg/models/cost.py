"""What a network costs: the multiplications of one image.

Counted are the products of convolutions and matrix products in the program
that predicts, which is all but a few per cent of the work. Where layers are
written so as to need fewer than the textbook's (nearest up-sampling before a
convolution), the fewer are counted; where platforms differ, the largest.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seg import config as config_lib
from seg import models


def multiply_adds(config: config_lib.Model, height: int, width: int) -> int:
    """Multiply-adds of one image of height x width px, multiples of stride."""

    image = jax.ShapeDtypeStruct(
        (1, height, width, config.in_channels), jnp.float32
    )
    graph, state = nnx.split(
        nnx.eval_shape(lambda: models.build(config, nnx.Rngs(0)))
    )

    def forward(state: Any, image: jax.Array) -> jax.Array:
        model = models.predicting(nnx.merge(graph, state))
        return model(image)["classes"]

    return _count(jax.make_jaxpr(forward)(state, image).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    shapes = [v.aval.shape for v in equation.invars if hasattr(v, "aval")]
    n_out = math.prod(equation.outvars[0].aval.shape)
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        return n_out * math.prod(shapes[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        _, n_in, *window = parameters["dimension_numbers"].rhs_spec
        kernel = shapes[1]
        taps = math.prod(kernel[axis] for axis in window)
        # zeros between the pixels, as a transposed convolution puts them there
        taps /= math.prod(parameters["lhs_dilation"])
        return round(n_out * kernel[n_in] * taps)
    inner = [_count(sub) for sub in _inside(parameters)]
    return max(inner, default=0) if name == "cond" else sum(inner)


def _inside(parameters: dict[str, Any]) -> list[Any]:
    """The programs that an equation holds."""
    found = []
    for value in parameters.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            each = getattr(each, "jaxpr", each)  # closed or not
            if hasattr(each, "eqns"):
                found.append(each)
    return found
