"""Drawn nuclei, of which half touch: the whole path in minutes.

bash launch/demo.sh

1.3 minutes of training on two CPU cores: Dice .988, pooled AP@0.5 .988, count
error .012 (Otsu's threshold and connected components: .916, .496, .317).
"""

from seg import config


def get_config() -> config.Config:
    return config.Config(
        model=config.Model(width=16, depth=3, norm="batch"),
        data=config.Data(layout="synthetic", tile=128, gap=1),
        synthetic=config.Synthetic(n_train=48, n_val=8, n_test=12),
        optim=config.Optim(learning_rate=3e-3, ema=0.98),
        train=config.Train(batch_size=8, epochs=3),
        predict=config.Predict(separate="watershed", min_area=(20,)),
        track=config.Track(experiment="demo"),
    )
