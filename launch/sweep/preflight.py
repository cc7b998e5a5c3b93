"""Whether trainings of these configs could begin: FILE.json [PACK].

python -m launch.sweep.preflight FILE.json, a list of configs: networks, losses
and optimisers can be built, and the raw files or the pack are there. In a
process of its own, since it loads JAX, which takes a GPU whole. Exit status: 0,
or 2 and one line.
"""

import json
import pathlib
import sys
from collections.abc import Iterable

from seg import config as config_lib
from seg import flags as seg_flags

_MANY = 1_000_000  # steps


def check(config: config_lib.Config) -> None:
    """Raises ConfigError where a training of this config would not begin."""
    from seg.train import optim, step, validate

    step.check(config)
    # how many steps epochs are, the data will say
    optim.build(config.optim, config.train.steps or _MANY)
    validate.check_monitor(config)


def check_all(configs: Iterable[config_lib.Config]) -> None:
    """As `check`, of each distinct one."""
    seen = {
        (c.model, c.loss, c.optim, c.classes, c.data.tile, c.train): c
        for c in configs
    }
    for config in seen.values():
        check(config)


def check_data(configs: Iterable[config_lib.Config], tiles: str = "") -> None:
    """Raises UserError where the raw files, or the pack, are not there."""
    from seg.data import layouts, records

    if tiles:
        records.open_pack(tiles)
        return
    for config in {c.data: c for c in configs}.values():
        layouts.source_stamp(config)


def main() -> int:
    """Checks those of the file."""
    texts = json.loads(pathlib.Path(sys.argv[1]).read_text())
    try:
        configs = [config_lib.from_json(json.dumps(text)) for text in texts]
        check_all(configs)
        check_data(configs, *sys.argv[2:])
    except config_lib.UserError as error:
        return seg_flags.fail(f"SWEEP: {error}")
    return seg_flags.DONE


if __name__ == "__main__":
    sys.exit(main())
