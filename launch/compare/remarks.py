"""What the reader of a comparison must know, in plain sentences."""

from collections.abc import Callable, Iterable, Sequence

from launch.compare import runs as runs_lib

_MOST = 6  # names in a sentence
Runs = Sequence[runs_lib.Run]


def of(runs: Runs, metric: str, knobs: Iterable[str]) -> list[str]:
    """Sentences; metric: that the table goes by; knobs: that differ."""
    found = [_data(runs), _monitors(runs, metric)]
    if any(knob.startswith("loss.") for knob in knobs):
        found.append(
            "The runs minimise different losses: compare how train/loss falls, "
            "not its values."
        )
    found += [*_progress(runs), *_missing(runs), *_unseen(runs)]
    return [text for text in found if text]


def by_data(runs: Runs) -> dict[str, list[runs_lib.Run]]:
    """The runs by the digest of their images."""
    return _grouped(runs, lambda run: run.data)


def _grouped(
    runs: Runs, key: Callable[[runs_lib.Run], str]
) -> dict[str, list[runs_lib.Run]]:
    groups: dict[str, list[runs_lib.Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def _data(runs: Runs) -> str:
    groups = by_data(runs)
    if len(groups) == 1:
        return ""
    told = "; ".join(
        f"{named(group)} ({digest or 'unknown'})"
        for digest, group in groups.items()
    )
    return (
        "Not all were trained on the same images, so scores of different "
        f"groups do not compare. Runs by the digest of their data: {told}."
    )


def _monitors(runs: Runs, metric: str) -> str:
    groups = _grouped(runs, lambda run: run.monitor)
    if len(groups) == 1:
        return ""
    told = "; ".join(f"{m} ({named(group)})" for m, group in groups.items())
    return (
        "Each run keeps the model that is best by a metric of its own: "
        f"{told}. The table goes by {metric}."
    )


def _progress(runs: Runs) -> list[str]:
    words = {
        "running": "still training; its scores are the best so far.",
        "stopped": "stopped before its end; the same training command resumes.",
        "failed": "failed, see its log.txt; its scores are the best so far.",
    }
    return [
        f"{run.name}: at step {run.step}, {words[run.status]}"
        for run in runs
        if run.status in words
    ]


def _missing(runs: Runs) -> list[str]:
    models = [run for run in runs if run.n_parameters is not None]
    untested = [run for run in models if not _is_scored(run, "test")]
    return [
        _about(
            [run for run in runs if run not in models],
            "no model yet, so no scores",
        ),
        _about(
            [run for run in untested if "test" not in run.outdated],
            "not scored on the test images; launch.evaluate --workdir=RUN "
            "does it",
        ),
        _about(
            [run for run in runs if run.outdated],
            "scored before the model became better, so those scores are left "
            "out; run launch.evaluate again",
        ),
        _about(
            [run for run in runs if not run.records],
            "no record of the steps is to be found, so no curves",
        ),
    ]


def _unseen(runs: Runs) -> list[str]:
    """That runs were scored on images of which there are no pictures."""
    lacking: dict[str, list[runs_lib.Run]] = {}
    for group in by_data(runs).values():
        split, shown = runs_lib.pictures(group)
        lacking.setdefault(split, []).extend(
            r for r in group if r.name not in shown and _is_scored(r, split)
        )
    return [
        _about(
            group,
            f"no pictures of the {split} images; launch.evaluate --workdir=RUN "
            f"--split={split} makes them",
        )
        for split, group in lacking.items()
    ]


def _is_scored(run: runs_lib.Run, split: str) -> bool:
    return any(name.startswith(f"{split}/") for name in run.metrics)


def _about(runs: Runs, what: str) -> str:
    return f"{named(runs)}: {what}." if runs else ""


def named(runs: Runs) -> str:
    """Their names, the first of many."""
    names = [run.name for run in runs[:_MOST]]
    rest = len(runs) - len(names)
    return ", ".join(names) + (f" and {rest} more" if rest else "")
