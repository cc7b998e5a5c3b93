"""How the optimiser, its schedule and averaged weights change the result.

X=experiments/sweep_optimisers.py
python -m launch.prepare --experiment=$X --data.path=dsb2018_stardist.zip
python -m launch.sweep --experiment=$X --evaluate --jobs=2

Two CPU cores, 22 min: Dice of validation from .917 (SGD, .05, cosine) to .926
(SGD with gradients of unit norm, constant).

The last ones are those of arXiv:1907.03576: gradients of unit norm, Nesterov's
momentum, cosine, averaged weights at the end.
"""

from seg import config

_SGD = {"optim.name": "sgd", "optim.learning_rate": 0.05}
_UNIT = _SGD | {"optim.unit_gradients": True, "optim.learning_rate": 1e-2}
SWEEP = [
    {"optim.name": "adamw"},
    {"optim.name": "muon"},
    {"optim.name": "muon", "optim.ema": 0.98},
    {"optim.name": "adam", "optim.schedule": "constant"},
    {"optim.name": "adamw", "optim.ema": 0.98},
    {"optim.name": "adamw", "optim.swa": 0.25, "optim.swa_every": 10},
    {"optim.name": "adamw", "optim.cycles": 4},
    _SGD,
    {**_SGD, "optim.schedule": "constant"},
    _UNIT,
    {**_UNIT, "optim.schedule": "constant"},
    {**_UNIT, "optim.swa": 0.25, "optim.swa_every": 10},
]


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(name="unet_small", norm="batch", dropout=0.0),
        data=config.Data(
            layout="stardist", path="dsb2018_stardist.zip", tile=128, gap=2,
            per_image=4),
        augment=config.Augment(scale=0.3),
        optim=config.Optim(learning_rate=2e-3),
        train=config.Train(steps=250, eval_every=50, eval_images=16),
        predict=config.Predict(connectivity=1, gap=2, min_area=(12,)),
        track=config.Track(experiment="optimisers"),
    )  # fmt: skip
