"""Every architecture on the same 2,000 tiles of nuclei: the missing table.

X=experiments/sweep_architectures.py
python -m launch.prepare --experiment=$X --data.path=dsb2018_stardist.zip
python -m launch.sweep --experiment=$X --evaluate

StarDist's subset of the Data Science Bowl; 250 steps of 8 tiles of 128x128,
each network with its source's widths and normalisation. More with
--train.steps, other data with --data.path. Two CPU cores, 83 minutes of
training alone: Dice of the test from .879 (fcn8) to .923 (unet), pooled AP@0.5
from .446 to .626.
"""

from seg import config

SWEEP = [
    {"model.name": "unet_small"},
    {"model.name": "unet_small", "model.norm": "batch"},
    {"model.name": "mobilenet_unet"},
    {"model.name": "fcn8"},
    {"model.name": "convnext_unet"},
    {"model.name": "deeplab_v3plus"},
    {"model.name": "attention_unet"},
    {"model.name": "unet_plusplus", "model.deep_supervision": True},
    {"model.name": "residual_unet", "model.deep_supervision": True},
    {"model.name": "xception_unet"},
    {"model.name": "segnet"},
    {"model.name": "segnet_indices"},
    {"model.name": "unet"},
    {"model.name": "unet", "model.norm": "batch"},
]


def get_config() -> config.Config:
    return config.Config(
        data=config.Data(
            layout="stardist", path="dsb2018_stardist.zip", tile=128, gap=2,
            per_image=4),
        augment=config.Augment(scale=0.3),
        optim=config.Optim(ema=0.98),
        train=config.Train(steps=250, eval_every=50, eval_images=16),
        predict=config.Predict(
            tile=256, overlap=0.25, connectivity=1, gap=2, min_area=(12,)),
        track=config.Track(experiment="architectures"),
    )  # fmt: skip
