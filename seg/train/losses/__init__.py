"""What training minimises: weighted sums of segmentation losses on logits.

Every term has the signature ``term(logits, classes, mask, loss) -> scalar``:

    logits   float [B, H, W, K]; K == 1 is one sigmoid (foreground), K > 1 a
             softmax over the classes. Computed in float32 whatever comes in.
    classes  uint8 [B, H, W]; for K == 1 every class above 0 is foreground.
    mask     float [B, H, W], 0 where a pixel is ignored. Such a pixel changes
             neither value nor gradient, not even with logits of NaN. Lovasz
             asks only whether it is above 0; the others weigh with it.
    loss     the knobs, `config.Loss`.

The value is a float32 scalar, finite for finite logits, and 0 where nothing is
annotated. Averages are (sum, count) pairs that are divided last.

    term                    K == 1             K > 1
    cross_entropy           sigmoid            softmax
    binary_cross_entropy    sigmoid            -
    boundary_cross_entropy  sigmoid            softmax
    focal                   sigmoid            softmax
    dice, log_cosh_dice     sigmoid            softmax, mean over classes
    tversky, focal_tversky  sigmoid            softmax, mean over classes
    generalized_dice        sigmoid, and       softmax
                            1 - that
    lovasz_softmax          -                  softmax, mean over classes
    lovasz_hinge            the signed logit   -
    lovasz_symmetric        the signed logit   -
    lovasz_sigmoid          sigmoid            -

`Loss.classes` chooses the classes of Dice, its kin and Lovasz: all, those
listed, or (present) those with a true pixel in the group, be it the batch or,
with `Loss.per_image`, each image. For K == 1 the one class is 1, so a group
without foreground is left out by "present" and counts with "all" and "1".

    pixels    averages over pixels: the cross entropies, focal
    regions   Dice and its kin
    lovasz    the Lovasz family, in the letters of Berman et al. 2018
    terms     all of them by name; which fit a model
    schedule  what `Loss.terms` says
    apart     what `Model.objects` adds
    planes    what the terms share
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from seg import config
from seg.train.losses import apart
from seg.train.losses.planes import IGNORE
from seg.train.losses.terms import TERMS, check_terms, parse

__all__ = ["IGNORE", "TERMS", "check_terms", "parse", "total"]


def total(
    outputs,
    classes,
    weight,
    loss: config.Loss,
    progress,
    objects=None,
    near=None,
):
    """The weighted sum `loss.terms` over a batch, in the phase that is on.

    Parameters
    ----------
    outputs
        what a model gives: {"classes": logits [B, H, W, K]} and, with deep
        supervision, "aux": a list of logits [B, H / s, W / s, K]. Each of
        those is held against every s-th pixel, from s // 2 on (the middle of
        what it stands for), and weighs 1 / s, the main output 1, all over
        their sum.
    weight
        float [B], 0 for the samples that only fill up the batch.
    progress
        the share of all steps that is done, float32; 1 is the last phase. The
        other phases cost nothing.
    objects
        float [B, H, W], the map of `apart.target` that outputs["objects"] shall
        be; it weighs `loss.objects`.
    near
        float [B, H, W], of `apart.near`, where `loss.touching` is not 0.
    """
    mask = jnp.where(classes == IGNORE, 0.0, weight[:, None, None])
    phases = parse(loss.terms)

    def value(n_begun, outputs):
        return _over_outputs(outputs, classes, mask, loss, phases[n_begun])

    # half a step of a million: step / steps is rounded
    n_begun = sum(progress > phase.start - 5e-7 for phase in phases[1:])
    if isinstance(n_begun, int):
        result = value(n_begun, outputs)
    else:
        branches = [functools.partial(value, n) for n in range(len(phases))]
        result = _switch(n_begun, branches, outputs)
    if objects is None:
        return result
    extra = loss.touching * near if loss.touching else 0
    value = apart.apart(outputs["objects"], objects, mask, 1 + extra)
    return result + loss.objects * value


def _switch(n_begun, branches, outputs):
    """`lax.switch`, the gradient taken inside.

    Outside, what each branch keeps for its gradient is kept for all of them,
    as zeros where it was not on (8 x 256 x 256 px, 4 classes, three phases: 90
    against 58 MiB).
    """

    @jax.custom_vjp
    def value(outputs):
        return lax.switch(n_begun, branches, outputs)

    def forward(outputs):
        return lax.switch(
            n_begun, [jax.value_and_grad(f) for f in branches], outputs
        )

    def backward(grads, cotangent):
        return (jax.tree.map(lambda g: g * cotangent.astype(g.dtype), grads),)

    value.defvjp(forward, backward)
    return value(outputs)


def _over_outputs(outputs, classes, mask, loss: config.Loss, phase):
    value = _sum(outputs["classes"], classes, mask, loss, phase)
    weights = 1.0
    for logits in outputs.get("aux", ()):
        s = classes.shape[1] // logits.shape[1]
        middle = slice(s // 2, None, s)
        part = classes[:, middle, middle], mask[:, middle, middle]
        value += _sum(logits, *part, loss, phase) / s
        weights += 1 / s
    return value if weights == 1 else value / weights


def _sum(logits, classes, mask, loss: config.Loss, phase):
    return sum(
        factor * TERMS[name](logits, classes, mask, loss)
        for factor, name in phase.terms
    )
