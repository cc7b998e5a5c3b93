"""What is done to the intensities, and whether tiles beat resized images.

X=experiments/sweep_input.py
python -m launch.prepare --experiment=$X --data.path=dsb2018_stage1_train.zip
python -m launch.sweep --experiment=$X --evaluate

Colour, grey and bright-field images together, as grey ones. Two CPU cores,
an hour: Dice of the test from .733 (equalised) to .889 (percentiles).
"""

from seg import config

SWEEP = [
    {"data.normalize": "percentile"},
    {"data.normalize": "invert + percentile"},
    {"data.normalize": "range"},
    {"data.normalize": "invert + range"},
    {"data.normalize": "standard"},
    {"data.normalize": "minmax"},
    {"data.normalize": "global"},
    {"data.normalize": "minmax + equalize"},
    {"data.normalize": "minmax + gamma"},
    {"data.normalize": "global + minmax + equalize + gamma"},
    {"data.normalize": "range + columns"},
    {"data.resize": 128, "data.overlap": 0.0},
    {"data.spacing": "ceil"},
]


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(name="unet_small", norm="batch", dropout=0.0),
        data=config.Data(
            layout="dsb2018", path="dsb2018_stage1_train.zip",
            overlaps="first", tile=128, gap=2, per_image=4),
        augment=config.Augment(
            brightness=0.0, contrast=0.0, gamma=0.0, noise=0.0),
        optim=config.Optim(learning_rate=2e-3, ema=0.98),
        train=config.Train(steps=250, eval_every=50, eval_images=16),
        predict=config.Predict(connectivity=1, gap=2, min_area=(12,)),
        track=config.Track(experiment="input"),
    )  # fmt: skip
