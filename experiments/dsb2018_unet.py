"""U-Net on StarDist's subset of the 2018 Data Science Bowl.

python -m launch.prepare --experiment=experiments/dsb2018_unet.py
python -m launch.train --experiment=experiments/dsb2018_unet.py
python -m launch.evaluate --experiment=experiments/dsb2018_unet.py \
    --predict.tta=8

41 minutes on two CPU cores (AVX-512, no AMX): Dice .931, IoU .875, pooled
AP@0.5 .672, count error .111.
"""

from seg import config


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(width=32, depth=3, stem=2, norm="batch"),
        data=config.Data(
            layout="stardist",
            path="dsb2018_stardist.zip",
            sha256="135b77bd8835a140d784257806040786"
            "dc8ce1fc4703690d1c82d03d8780f1d1",
            gap=2,
            per_image=2,
        ),
        augment=config.Augment(scale=0.3),
        loss=config.Loss(per_image=True),
        optim=config.Optim(learning_rate=3e-3, ema=0.995),
        train=config.Train(epochs=42, eval_every=462),
        predict=config.Predict(connectivity=1, gap=2, min_area=(12,)),
        track=config.Track(experiment="dsb2018"),
    )
