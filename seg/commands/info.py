"""seg info MODEL

Prints what a model is: architecture, classes, settings, metrics.
"""

import seg
from seg import flags


def define() -> None:
    """There are no flags."""


def main(inputs: list[str]) -> None:
    """Prints what a model is."""
    from seg.predict import bundle

    (name,) = flags.arguments(inputs, "MODEL")
    folder = seg.find(name)
    model = bundle.load(folder)
    config = model.config
    lines = {
        "folder": folder,
        "network": f"{config.model.name}, {config.model.in_channels} channels, "
        f"{sum(a.size for a in model.weights.values()):,} weights",
        "classes": ", ".join(config.classes),
        "normalize": config.data.normalize,
        **{f"predict.{k}": v for k, v in vars(config.predict).items()},
    }
    for key, value in model.meta.items():
        nested = value if isinstance(value, dict) else {"": value}
        lines |= {f"{key} {name}".strip(): v for name, v in nested.items()}
    width = max(map(len, lines))
    for key, value in lines.items():
        print(f"{key:{width}}  {value}")
