"""U-Net on StarDist's subset of the 2018 Data Science Bowl.

python -m launch.prepare --experiment=experiments/dsb2018_unet.py --data.path=dsb2018_stardist.zip
"""

from seg import config


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(width=16, depth=4, norm="batch"),
        data=config.Data(layout="stardist", tile=256, gap=1),
        augment=config.Augment(scale=0.3, invert=0.0),
        optim=config.Optim(learning_rate=3e-3, ema=0.999),
        train=config.Train(batch_size=8, epochs=12),
        predict=config.Predict(tta=4),
        track=config.Track(experiment="dsb2018"),
    )
