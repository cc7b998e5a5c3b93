"""A jaxpr, equation by equation.

What depends on constants alone is computed at once. Where a layer is written
differently for each platform (`jax.lax.platform_dependent`), the form for all
others is taken: one plain operation, where a CPU's is many for XLA's sake.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend
import numpy as np

from seg.predict.graph import axes, elements, layers, patterns, values

_INLINE = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")
RULES = elements.RULES | axes.RULES | layers.RULES


def run(
    graph: values.Graph,
    jaxpr: Any,
    constants: Sequence[Any],
    inputs: Sequence[values.Value],
) -> list[values.Value]:
    """Adds the equations of a jaxpr; returns what it returns."""
    known: dict[Any, values.Value] = {}
    known |= zip(jaxpr.constvars, map(np.asarray, constants), strict=True)
    known |= zip(jaxpr.invars, inputs, strict=True)

    def read(atom: Any) -> values.Value:
        if isinstance(atom, jax.extend.core.Literal):
            return np.asarray(atom.val, atom.aval.dtype)
        return known[atom]

    at = 0
    while at < len(jaxpr.eqns):
        equation = jaxpr.eqns[at]
        given = [read(atom) for atom in equation.invars]
        pattern = patterns.find(graph, jaxpr, at, given)
        if pattern:
            length, found = pattern
            equation = jaxpr.eqns[at + length - 1]
        else:
            length, found = 1, _one(graph, equation, given)
        at += length
        known |= zip(equation.outvars, found, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _one(
    graph: values.Graph, equation: Any, given: list[values.Value]
) -> list[values.Value]:
    """Adds one equation."""
    op, params = equation.primitive.name, equation.params
    if op == "platform_index" and None in params["platforms"]:
        return [np.array(params["platforms"].index(None))]
    if op == "cond" and isinstance(given[0], np.ndarray):
        branch = params["branches"][int(given[0])]
        return run(graph, branch.jaxpr, branch.consts, given[1:])
    if _is_known(equation, given):
        return _fold(equation, given)
    if op in _INLINE:
        inner = params.get("jaxpr") or params["call_jaxpr"]
        return run(graph, inner.jaxpr, inner.consts, given)
    if op not in RULES:
        raise values.refused(f"the operation {op}")
    found = RULES[op](graph, given, equation)
    return found if isinstance(found, list) else [found]


def _is_known(equation: Any, given: Sequence[values.Value]) -> bool:
    sizes = [size for out in equation.outvars for size in out.aval.shape]
    return (
        all(isinstance(value, np.ndarray) for value in given)
        and all(isinstance(size, int) for size in sizes)
        and equation.primitive.name != "dim_as_value"
    )


def _fold(equation: Any, given: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Computes an equation of constants."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        if equation.primitive.name in _INLINE:
            params = equation.params
            inner = params.get("jaxpr") or params["call_jaxpr"]
            found = jax.core.eval_jaxpr(inner.jaxpr, inner.consts, *given)
        else:
            found = equation.primitive.bind(*given, **equation.params)
    if not equation.primitive.multiple_results:
        found = [found]
    return [np.asarray(value) for value in found]
