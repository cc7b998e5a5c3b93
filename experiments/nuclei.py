"""Nuclei of any microscope: fluorescence, stained and bright-field images.

X=experiments/nuclei.py
python -m launch.prepare --experiment=$X --data.path=dsb2018_stage1_train.zip
python -m launch.train --experiment=$X
python -m launch.evaluate --workdir=runs/nuclei --split=val --tune

All of the Data Science Bowl but for the 50 test images of StarDist's subset and
what shares a field with them. Sizes from half to twice, inverted and in other
colours too, so that one model sees them all.
`seg/zoo/nuclei` was made with it: 40 minutes on two CPU cores, AP@0.5 of
validation .772 pooled, .851 by image; more in its card.
"""

from seg import config


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(
            in_channels=3, width=32, depth=3, stem=2, norm="batch",
            objects="distance"),
        data=config.Data(
            layout="dsb2018", path="dsb2018_stage1_train.zip",
            exclude="experiments/stardist_test_50.txt", overlaps="first",
            test_frac=0.0, per_image=2, object_rich=0.25),
        augment=config.Augment(
            scale=0.7, scale_range=(0.5, 2.0), rotate=0.3, reflect=True,
            elastic=0.3, invert=0.15, colour=0.2, grey=0.2, blur=0.2),
        loss=config.Loss(per_image=True, objects=5.0, touching=4.0),
        optim=config.Optim(name="muon", learning_rate=3e-3, ema=0.997),
        train=config.Train(
            epochs=45, eval_every=711, eval_images=24, monitor="val/ap_mean"),
        predict=config.Predict(
            separate="learned", connectivity=1, min_area=(12,)),
        track=config.Track(experiment="nuclei"),
    )  # fmt: skip
