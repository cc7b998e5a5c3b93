"""Beads and cells of low contrast: Xception U-Net, Lovasz, normalised SGD.

X=experiments/microscale_lovasz.py
python -m launch.prepare --experiment=$X
python -m launch.train --experiment=$X [--model.encoder=WEIGHTS.h5]
python -m launch.evaluate --experiment=$X

The method of arXiv:1907.03576 on drawn images; its own are not public. As its
program ran: `--experiment=$X:as_published` (the cosine never reached the
optimiser, the averaged weights did not predict, validation tiles came from
training images). Not repeated: Lovasz on raw values (seg's takes the softmax),
75,000 random crops (here a grid of tiles), statistics by tile (here by image),
a grey image copied to three channels, from 0 to 1 (here one, from -1 to 1 where
--model.encoder brings ImageNet's weights, which it had).
The paper: mean IoU .91 over background, bead and cell; here, with
`--data.tile=128 --train.steps=400`, .948 in validation and .940 on the test
images, in 26 minutes on two busy CPU cores.
"""

from seg import config


def get_config() -> config.Config:
    changes = {
        "data.split": "auto", "optim.schedule": "cosine", "optim.swa": 0.2,
        "optim.learning_rate": 0.01,
        "loss.terms": "cross_entropy, from 0.3: cross_entropy + lovasz_softmax",
        "predict.overlap": 0.25, "train.monitor": "val/miou",
    }  # fmt: skip
    return config.replace(as_published(), changes)


def as_published() -> config.Config:
    return config.Config(
        classes=("background", "bead", "cell"),
        model=config.Model(name="xception_unet", n_classes=3),
        data=config.Data(
            normalize="global + minmax + equalize + gamma", split="tiles",
            val_frac=0.175),  # a fifth of what is left of the images
        synthetic=config.Synthetic(
            kind="beads", n_classes=3, height=480, width=640, contrast=0.3,
            n_train=60, n_val=10, n_test=10),
        augment=config.Augment(
            brightness=0.0, contrast=0.0, gamma=0.0, noise=0.0),
        loss=config.Loss(terms="lovasz_softmax"),
        optim=config.Optim(
            name="sgd", unit_gradients=True, schedule="constant",
            warmup_frac=0.0, clip_norm=0.0),
        train=config.Train(epochs=25, monitor="val/loss"),
        predict=config.Predict(tile=256, overlap=0.0),
        track=config.Track(experiment="microscale"),
    )  # fmt: skip
