"""U-Net on all 664 images of the 2018 Data Science Bowl, colour and grey.

python -m launch.prepare --experiment=experiments/dsb2018_stage1.py
python -m launch.train --experiment=experiments/dsb2018_stage1.py
python -m launch.evaluate --experiment=experiments/dsb2018_stage1.py

13 minutes on two CPU cores (AVX-512, no AMX): Dice .897, pooled AP@0.5 .559, of
99 test images that share no field with the others.
"""

from seg import config


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(
            in_channels=3, width=32, depth=3, stem=2, norm="batch"
        ),
        data=config.Data(
            layout="dsb2018",
            path="dsb2018_stage1_train.zip",
            sha256="85cab41c64e570eea04aad29f5b09c76"
            "260841bc68cee303f1676ec70389dd24",
            overlaps="first",
            gap=2,
            per_image=2,
            object_rich=0.25,
        ),
        augment=config.Augment(scale=0.3, invert=0.1),
        optim=config.Optim(learning_rate=3e-3, ema=0.99),
        train=config.Train(epochs=6),
        predict=config.Predict(connectivity=1, gap=2, min_area=(12,)),
        track=config.Track(experiment="dsb2018"),
    )
