"""Many images into one folder, and again after an interruption.

Each image's results are written first, each whole, then its record in the
`ledger`; an image whose record still holds is skipped. The tables of all images
are made from the records, so that they come out the same however often a run
was stopped, and cover all that lies in the folder, whichever call put it there.
While the objects of one image are found and written, the network has the next,
unless it is a large one.
An image that cannot be used does not stop the others: it is listed in
`failures.csv`. Each plane of a stack is an image. Nothing that lies there is
replaced but what an earlier run has written and left as it is now.
"""

import contextlib
import dataclasses
import logging
import pathlib
import shutil
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from seg import config as config_lib
from seg import images as images_lib
from seg.images import formats
from seg.predict import inputs, jobs
from seg.predict import ledger as ledger_lib

if typing.TYPE_CHECKING:  # it brings JAX, which a finished folder never needs
    from seg.predict import predictor as predictor_lib

Path = pathlib.Path
Item = ledger_lib.Item

_FAILURES = "failures.csv"

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class Outcome:
    """What became of the images: counts, and (path, reason) of failures."""

    n_done: int = 0
    n_skipped: int = 0
    failures: list[tuple[Path, str]] = dataclasses.field(default_factory=list)

    @property
    def n_images(self) -> int:
        """All images, whatever became of them."""
        return self.n_done + self.n_skipped + len(self.failures)


def run(
    images: Sequence[Path],
    out: Path,
    names: Sequence[str],
    settings: Mapping[str, Any],
    predictor: Callable[[], "predictor_lib.Predictor"],
    *,
    overwrite: bool = False,
    select: str = "",
    project: str = "",
    n_channels: int = 0,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
    check: Callable[[], None] = lambda: None,
) -> Outcome:
    """Segments images into a folder.

    Parameters
    ----------
    images : files, from `inputs.expand`.
    out : the folder, absolute; made where it is missing.
    names : keys of `formats.FORMATS`.
    settings : JSON values that decide the result: the model's digest, ... An
        image is done again when they, or the file, have changed.
    predictor : gives the predictor; called once an image needs it.
    overwrite : do all images again; replace whatever lies there, but for
        images, and what is corrected by hand in LabelMe.
    select : which planes and channels of stacks, see `seg.images.axes`; each
        plane is an image of its own.
    project : what becomes of the planes of Z, of `axes.PROJECTIONS`; "" = each
        is an image of its own.
    n_channels : that a model of nuclei takes, see `inputs.planes`.
    progress : wraps the images, to show how far it is.
    check : called often while a slide is worked on; may raise to stop.

    Raises
    ------
    UserError
        where the folder cannot be written, or another process writes there;
        what is finished stays. Before any work, where results would replace
        what is not from here.
    """
    outcome = Outcome()
    with contextlib.ExitStack() as held:
        ledger = held.enter_context(ledger_lib.held(out))
        network = futures.ThreadPoolExecutor(1)
        held.callback(network.shutdown, cancel_futures=True)
        ledger.name(images)
        choice = select, project, n_channels
        plan = _Plan(ledger, settings, names, overwrite, choice)
        _check_ways(plan, ledger, images, names, overwrite, check)
        use = None
        maps: dict[Item, futures.Future[jobs.Map]] = {}
        hopeless: set[Path] = set()
        for item, following in plan.each(images, progress):
            check()
            if item.path in hopeless:
                continue
            job = plan.job(item)
            if not job or overwrite:
                work = ledger.work(ledger.stem(item))
                shutil.rmtree(work, ignore_errors=True)
            if not job:
                outcome.n_skipped += 1
                continue
            use = use or predictor()
            try:
                if job.by_strips:
                    job.do_slide(use, ledger, check)
                else:
                    if item not in maps:
                        maps[item] = network.submit(job.mapped, use, ledger)
                    later = plan.job(following) if following else None
                    if later and later.is_small:
                        maps[later.item] = network.submit(
                            later.mapped, use, ledger
                        )
                    job.do_image(use, maps.pop(item).result(), ledger)
            except jobs.Unusable as error:
                outcome.failures.append((item.path, job.reason(error)))
                ledger.forget(item)
                if isinstance(error.__cause__, images_lib.ChannelError):
                    hopeless.add(item.path)  # as all its other planes
                continue
            outcome.n_done += 1
        _tables(out, names, ledger, outcome)
    return outcome


def _check_ways(
    plan: "_Plan",
    ledger: ledger_lib.Ledger,
    images: Sequence[Path],
    names: Iterable[str],
    overwrite: bool,
    check: Callable[[], None],
) -> None:
    """Raises UserError where results would replace what is not from here."""
    found = []
    if not overwrite:
        tables = [*_shared(names), _FAILURES]
        found = [ledger.out / t for t in tables if not ledger.is_own(None, t)]
    for item, _ in plan.each(images, iter):
        check()
        if job := plan.job(item):
            found += job.in_the_way(ledger, overwrite)
    if found:
        n = len(found) - 1
        more = f" (and {n} other{'s' * (n > 1)})" if n else ""
        raise config_lib.UserError(
            f"{found[0]}{more} would be replaced, but was not made here, or "
            "changed since; move it away, choose another --out, or give "
            "--overwrite"
        )


class _Plan:
    """What is to be done in a run, image by image."""

    def __init__(
        self,
        ledger: ledger_lib.Ledger,
        settings: Mapping[str, Any],
        names: Sequence[str],
        overwrite: bool,
        choice: tuple[str, str, int],
    ) -> None:
        self._ledger, self._settings, self._names = ledger, settings, names
        self._overwrite, self._choice = overwrite, choice
        self._told: set[str] = set()
        self._planes: dict[Path, inputs.Planes] = {}

    def each(
        self,
        images: Sequence[Path],
        progress: Callable[[Sequence[Path]], Iterable[Path]],
    ) -> Iterator[tuple[Item, Item | None]]:
        """Yields (an image or a plane, the one after it)."""
        for i, image in enumerate(progress(images)):
            items = self._planes_of(image).items
            for k, item in enumerate(items):
                coming = items[k + 1 : k + 2]
                if not coming and i + 1 < len(images):
                    coming = self._planes_of(images[i + 1]).items[:1]
                yield item, coming[0] if coming else None
            del self._planes[image]

    def _planes_of(self, image: Path) -> inputs.Planes:
        if image not in self._planes:
            self._planes[image] = self._found(image)
        return self._planes[image]

    def _found(self, image: Path) -> inputs.Planes:
        whole = Item(image)
        if not any(self._choice[:2]) and self._is_done(whole):
            return inputs.Planes([whole])  # the record says: it is no stack
        found = inputs.planes(image, *self._choice)
        if found.channel not in ("", *self._told):
            self._told.add(found.channel)
            _LOG.info(
                "channel %s is taken, which by its name shows nuclei; "
                "--select=C=... takes another",
                found.channel,
            )
        with contextlib.suppress(OSError):  # who reads it will tell
            self._ledger.settle(image, [item.plane for item in found.items])
        return found

    def _own(self, item: Item) -> dict[str, Any]:
        return {**self._settings, "select": item.select}

    def _is_done(self, item: Item) -> bool:
        if self._overwrite:
            return False
        return self._ledger.holds(item, self._own(item), self._names)

    def job(self, item: Item) -> jobs.Job | None:
        """What is to be done for an image; None: it is done."""
        if self._is_done(item):
            return None
        return jobs.Job(
            self._ledger.out,
            item,
            self._ledger.stem(item),
            self._names,
            self._own(item),
            self._planes_of(item.path).about,
        )


def _tables(
    out: Path, names: Iterable[str], ledger: ledger_lib.Ledger, outcome: Outcome
) -> None:
    """Writes what stands for all images together."""
    done = outcome.n_done + outcome.n_skipped
    shared = _shared(names) if done else {}
    # what all have in common is said without
    reasons = {_reason(*failure) for failure in outcome.failures}
    failures = outcome.failures if done or len(reasons) > 1 else []
    with ledger.sharing([*shared, *([_FAILURES] if failures else [])]):
        for name, form in shared.items():
            if form.part:
                made: Iterable[Any] = ledger.parts(form)
            else:
                made = ledger.images() if form.of_images else ledger.rows()
            form.write(out / name, made)
        if failures or ledger.is_own(None, _FAILURES):
            write_failures(out, failures)


def _shared(names: Iterable[str]) -> dict[str, formats.Format]:
    """File -> format, of those that have one file for all images."""
    forms = [formats.FORMATS[name] for name in names]
    return {form.name: form for form in forms if form.is_shared}


def write_failures(out: Path, failures: Iterable[tuple[Path, str]]) -> None:
    """Writes failures.csv; of no failures there is none."""
    failed = [
        {"image": _text(str(image)), "error": _text(_reason(image, reason))}
        for image, reason in failures
    ]
    if failed:
        formats.write_table(out / _FAILURES, failed, ("image", "error"))
    else:
        (out / _FAILURES).unlink(missing_ok=True)


def _reason(image: Path, reason: str) -> str:
    """Without the image's name, which stands beside it."""
    return reason.removeprefix(f"{image}: ")


def _text(name: str) -> str:
    """Without what is no Unicode, as a file's name may have it."""
    return name.encode(errors="replace").decode()
