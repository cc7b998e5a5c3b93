"""The terms as their papers define them, slowly, in float64 and NumPy."""

import numpy as np

from seg.train import losses


def definition(name, logits, truth, loss):
    """The value of a term for logits [B, H, W, K] and truth [B, H, W]."""
    if name.startswith("lovasz"):
        parts = [(1, truth)]
        if name == "lovasz_symmetric":
            other = np.where(truth == losses.IGNORE, truth, truth == 0)
            name, parts = "lovasz_hinge", [*parts, (-1, other)]
        found = [_lovasz(name, s * logits, y, loss) for s, y in parts]
        return np.mean(found)
    if "dice" in name or "tversky" in name:
        return _by_region(name, logits, truth, loss)
    return _by_pixel(name, logits, truth, loss)


def gradient(name, logits, truth, loss, step=1e-6):
    """Of `definition`, by central differences."""
    result = np.zeros(logits.shape)
    for at in np.ndindex(logits.shape):
        ends = []
        for sign in (1, -1):
            moved = np.float64(logits)
            moved[at] += sign * step
            ends.append(definition(name, moved, truth, loss))
        result[at] = (ends[0] - ends[1]) / (2 * step)
    return result


def probabilities(logits):
    """[..., 2] of one sigmoid, background first; else the softmax."""
    z = np.float64(logits)
    if z.shape[-1] == 1:
        z = np.concatenate([0 * z, z], -1)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def at_boundary(truth, side):
    """Where the window sees two classes, pixel by pixel."""
    result, r = np.zeros(truth.shape, bool), side // 2
    for b, row, column in np.ndindex(truth.shape):
        seen = truth[
            b,
            max(row - r, 0) : row + r + 1,
            max(column - r, 0) : column + r + 1,
        ]
        result[b, row, column] = len({*seen.flat} - {losses.IGNORE}) > 1
    return result


def _by_pixel(name, logits, truth, loss):
    valid = truth != losses.IGNORE
    if logits.shape[-1] == 1:
        truth = np.where(valid, truth > 0, truth)
    y = truth[valid]
    p = probabilities(logits)[valid][np.arange(len(y)), y]
    weight = np.ones(len(y))
    if loss.class_weights and name != "focal":
        weight *= np.array(loss.class_weights)[y]
    if name == "boundary_cross_entropy":
        near = at_boundary(truth, loss.boundary_width)[valid]
        weight *= 1 + loss.boundary_weight * near
    focus = (1 - p) ** loss.focal_gamma if name == "focal" else 1
    return (weight * focus * -np.log(p)).sum() / weight.sum()


def _chosen(name, n_classes, loss):
    if loss.classes in ("present", "all"):
        foreground = n_classes == 1 and name != "generalized_dice"
        return [1] if foreground else list(range(max(n_classes, 2)))
    return [int(k) for k in loss.classes.split(",")]


def _groups(logits, truth, loss):
    if not loss.per_image:
        return [(logits, truth)]
    return [(z[None], c[None]) for z, c in zip(logits, truth, strict=True)]


def _by_region(name, logits, truth, loss):
    found = []
    for z, c in _groups(logits, truth, loss):
        valid = c != losses.IGNORE
        y, p = c[valid], probabilities(z)[valid]
        if logits.shape[-1] == 1:
            y = y > 0
        sums = [
            (p[y == k, k].sum(), p[:, k].sum(), (y == k).sum())
            for k in _chosen(name, logits.shape[-1], loss)
        ]
        if loss.classes == "present":
            sums = [item for item in sums if item[2]]
        if sums and len(y):
            found.append(_of_sums(name, np.array(sums), loss))
    return np.mean(found)


def _of_sums(name, sums, loss):
    i, p, t = sums.T
    if name == "generalized_dice":
        w = np.where(t > 0, t, t[t > 0].min()) ** -2.0
        s = 2 * w.max()
        return 1 - (2 * (w * i).sum() + s) / ((w * (p + t)).sum() + s)
    a, b = loss.tversky if "tversky" in name else (0.5, 0.5)
    score = (i + 1) / (i + a * (p - i) + b * (t - i) + 1)
    term = {
        "log_cosh_dice": lambda x: np.log(np.cosh(x)),
        "focal_tversky": lambda x: x ** (1 / loss.tversky_gamma),
    }.get(name, lambda x: x)
    return term(1 - score).mean()


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


def errors(name, logits, truth, loss):
    """Pairs (errors, truth) by class of pixels that are all annotated."""
    if name == "lovasz_hinge":
        y = truth > 0
        x = 1 - np.float64(logits[..., 0]) * np.where(y, 1, -1)
        elu = np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)
        return [(elu + 1 if loss.hinge == "elu" else np.maximum(x, 0), y)]
    p = probabilities(logits)
    if name == "lovasz_sigmoid":
        return [(np.abs((truth > 0) - p[..., 1]), truth > 0)]
    return [
        (np.abs((truth == k) - p[..., k]), truth == k)
        for k in range(p.shape[-1])
    ]


def _lovasz(name, logits, truth, loss):
    """0 where no class counts."""
    found = []
    chosen = _chosen(name, logits.shape[-1], loss)
    for z, c in _groups(logits, truth, loss):
        valid = c != losses.IGNORE
        each = errors(name, z[valid], c[valid], loss)
        first = 1 if len(each) == 1 else 0
        each = [
            lovasz_extension(m, y)
            for k, (m, y) in enumerate(each, first)
            if k in chosen and (y.any() or loss.classes != "present")
        ]
        if each and valid.any():
            found.append(np.mean(each))
    return np.mean(found) if found else 0.0
