"""Every term against its definition: values and gradients."""

import numpy as np
import pytest

from seg import config
from tests.train.losses import cases, definitions


def lacking(n_classes, seed):
    """A sample whose second image has no pixel of the last class."""
    logits, truth = cases.sample(n_classes, seed)
    truth[1][truth[1] == max(n_classes - 1, 1)] = 0
    return logits, truth


@pytest.mark.parametrize(
    ("n_classes", "chosen", "per_image", "unlike"),
    [
        (1, "present", False, False),
        (1, "present", True, True),
        (1, "all", True, False),
        (1, "1", False, True),
        (3, "present", False, True),
        (3, "present", True, False),
        (3, "all", True, True),
        (3, "0,2", False, False),
    ],
)
def test_every_term_equals_its_definition(n_classes, chosen, per_image, unlike):
    knobs = cases.unlike(n_classes) if unlike else {}
    knobs |= {"classes": chosen, "per_image": per_image}
    loss = config.Loss(**knobs)
    for seed in range(3):
        logits, truth = lacking(n_classes, seed)
        for name, (value, grads) in cases.every(logits, truth, **knobs).items():
            true = definitions.definition(name, logits, truth, loss)
            assert value == pytest.approx(true, rel=1e-5), name
            if seed == 0:
                true = definitions.gradient(name, logits, truth, loss)
                np.testing.assert_allclose(grads, true, atol=2e-6, err_msg=name)
