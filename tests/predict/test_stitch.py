"""Claims about stitching: exact, bounded, equivariant."""

import itertools
import threading
import tracemalloc

import numpy as np
import pytest

from seg import tiles
from seg.predict import stitch

SIDES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 40)


def noise(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def identity(batch):
    return batch


@pytest.mark.parametrize("height", SIDES)
def test_identity_network_gives_the_image_bit_for_bit(height):
    for width in SIDES:
        image = noise(height, width, 2)
        found = stitch.stitch(
            image, identity, window=16, overlap=0.25, batch_size=3
        )
        np.testing.assert_array_equal(found, image, strict=True)


@pytest.mark.parametrize("tta", [1, 2, 4, 8])
def test_identity_is_exact_for_every_window_overlap_and_batch(tta):
    image = noise(23, 37, 1)
    settings = itertools.product((1, 2, 5, 16, 64), (0, 0.3, 0.9), (1, 4))
    for window, overlap, batch_size in settings:
        if window < 5 and overlap > 0.5 and tta > 1:
            continue  # thousands of windows that claim nothing new
        found = stitch.stitch(
            image,
            identity,
            window=window,
            overlap=overlap,
            batch_size=batch_size,
            tta=tta,
        )
        np.testing.assert_array_equal(found, image, strict=True)


@pytest.mark.parametrize("shape", [(40, 52), (37, 61), (16, 90), (33, 17)])
@pytest.mark.parametrize("window", [8, 16])
def test_a_network_that_pools_sees_the_same_pixels_in_every_window(
    shape, window
):
    image = np.random.default_rng(1).random((*shape, 1)).astype(np.float32)

    def pooled(batch):  # the mean of each 4 x 4, in all of its pixels
        n, rows, cols, channels = batch.shape
        parts = batch.reshape(n, rows // 4, 4, cols // 4, 4, channels)
        mean = parts.mean((2, 4), keepdims=True)
        return np.broadcast_to(mean, parts.shape).reshape(batch.shape)

    found = stitch.stitch(
        image, pooled, window=window, overlap=0.3, batch_size=3, align=4
    )
    short = [(0, -n % 4) for n in shape]
    whole = np.pad(image, [*short, (0, 0)], mode="reflect")
    wanted = pooled(whole[None])[0, : shape[0], : shape[1]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_extreme_values_survive():
    image = np.array([1e-45, 3e38, -3e38, 0, 1e-38], np.float32)
    image = np.tile(image, (9, 3))[..., None]
    found = stitch.stitch(image, identity, window=4, overlap=0.5, batch_size=2)
    np.testing.assert_array_equal(found, image)


def test_windows_are_averaged_with_their_weights():
    """The same as the plain sum over windows that the definition says."""
    image, window, overlap = noise(45, 61, 2), 16, 0.4

    def network(batch):  # what it says of a pixel depends on the place
        ramp = np.arange(window * window).reshape(window, window, 1)
        return np.concatenate([batch * ramp, batch[..., :1]], -1)

    total, norm = np.zeros((45, 61, 3)), np.zeros((45, 61, 1))
    ramp = tiles.ramp(window).astype(float)
    weights = np.outer(ramp, ramp)[..., None]
    for row, col in tiles.windows((45, 61), window, overlap):
        at = slice(row, row + window), slice(col, col + window)
        total[at] += weights * network(image[at][None])[0]
        norm[at] += weights
    found = stitch.stitch(
        image, network, window=window, overlap=overlap, batch_size=4
    )
    np.testing.assert_allclose(found, total / norm, rtol=1e-6)


@pytest.mark.parametrize("blend", ["mean", "last"])
def test_windows_are_averaged_alike_or_the_last_one_stays(blend):
    image, window, overlap = noise(45, 61, 2), 16, 0.4

    def network(batch):
        ramp = np.arange(window * window).reshape(window, window, 1)
        return batch * ramp

    total, norm = np.zeros((45, 61, 2)), np.zeros((45, 61, 1))
    for row, col in tiles.windows((45, 61), window, overlap):
        at = slice(row, row + window), slice(col, col + window)
        if blend == "last":
            total[at], norm[at] = 0, 0
        total[at] += network(image[at][None])[0]
        norm[at] += 1
    found = stitch.stitch(
        image,
        network,
        window=window,
        overlap=overlap,
        batch_size=4,
        blend=blend,
    )
    np.testing.assert_allclose(found, total / norm, rtol=1e-6)


def test_windows_are_spaced_as_asked():
    seen = []

    def network(batch):
        seen.append(len(batch))
        return batch

    image = noise(40, 32, 1)
    for spacing in ("least", "ceil"):
        seen.clear()
        found = stitch.stitch(
            image, network, window=16, overlap=0, batch_size=1, spacing=spacing
        )
        np.testing.assert_array_equal(found, image)
        windows = tiles.windows((40, 32), 16, 0, spacing)
        assert len(seen) == len(windows) == {"least": 6, "ceil": 12}[spacing]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 3), (7, 16), (9, 30)])
def test_short_axes_are_continued_by_reflection(shape):
    image, window, seen = noise(*shape, 1), 16, []

    def network(batch):
        seen.append(batch[0])
        return batch

    stitch.stitch(image, network, window=window, overlap=0, batch_size=1)
    pads = [max(window - n, 0) for n in shape]
    pads = [(pad // 2, pad - pad // 2) for pad in pads]
    wanted = np.pad(image, [*pads, (0, 0)], mode="reflect")
    np.testing.assert_array_equal(seen[0], wanted[:window, :window])


@pytest.mark.parametrize("tta", [1, 8])
def test_the_network_sees_one_shape(tta):
    shapes = set()

    def network(batch):
        shapes.add((batch.shape, batch.dtype.name))
        return batch

    for shape in [(5, 5, 3), (40, 70, 3), (16, 16, 3)]:
        stitch.stitch(
            noise(*shape),
            network,
            window=16,
            overlap=0.2,
            batch_size=5,
            tta=tta,
        )
    assert shapes == {((5, 16, 16, 3), "float32")}


def lopsided(batch):
    """A network that knows left from right and up from down."""
    return batch + np.roll(batch, 1, 1) * 2 + np.roll(batch, 1, 2) * 3


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [False, True])
def test_with_eight_views_a_turned_image_gives_the_turned_map(turns, mirror):
    def turn(image):
        return np.rot90(image[:, ::-1] if mirror else image, turns)

    image = noise(40, 40, 1)
    settings = {"window": 16, "overlap": 0.25, "batch_size": 4}
    plain, eight = (
        (
            stitch.stitch(turn(image), lopsided, tta=tta, **settings),
            turn(stitch.stitch(image, lopsided, tta=tta, **settings)),
        )
        for tta in (1, 8)
    )
    np.testing.assert_allclose(*eight, rtol=1e-5, atol=1e-5)
    if turns or mirror:
        assert np.abs(plain[0] - plain[1]).max() > 0.1


@pytest.mark.parametrize("tta", [2, 4, 8])
def test_views_are_averaged(tta):
    image = noise(16, 16, 1)
    turns = range(1) if tta == 2 else range(4)
    mirrors = (False,) if tta == 4 else (False, True)
    maps = []
    for mirror, n in itertools.product(mirrors, turns):
        view = np.rot90(image[:, ::-1] if mirror else image, n)
        back = np.rot90(lopsided(view[None])[0], -n)
        maps.append(back[:, ::-1] if mirror else back)
    found = stitch.stitch(
        image, lopsided, window=16, overlap=0, batch_size=3, tta=tta
    )
    np.testing.assert_allclose(found, np.mean(maps, 0), rtol=1e-5, atol=1e-6)


def test_strips_stream_a_tall_image_through_bounded_memory():
    """100,000 rows come and go; neither image nor map is ever whole."""
    height, width, window = 100_000, 32, 32
    asked, done, peak_rows = 0, 0, 0

    def rows(top, bottom):
        nonlocal asked
        assert asked <= bottom <= top + window
        asked = bottom
        return np.arange(top, bottom, dtype=np.float32)[
            :, None, None
        ] * np.ones((1, width, 1), np.float32)

    tracemalloc.start()
    for top, strip in stitch.strips(
        rows, (height, width), identity, window=window, overlap=0, batch_size=8
    ):
        assert top == done
        done += len(strip)
        peak_rows = max(peak_rows, len(strip))
        assert (strip[:, 0, 0] == np.arange(top, done)).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done == height
    assert peak_rows <= window
    assert peak < 1 << 20  # the map alone takes 12.8 MB


def test_strips_are_finished_before_the_last_row_is_read():
    read = []

    def rows(top, bottom):
        read.append(bottom)
        return np.zeros((bottom - top, 16, 1), np.float32)

    stream = stitch.strips(
        rows, (160, 16), identity, window=16, overlap=0.5, batch_size=1
    )
    next(stream)
    assert max(read) <= 32


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.7])
@pytest.mark.parametrize("shape", [(9, 40), (61, 16), (70, 33)])
def test_a_stream_begins_anywhere_with_the_same_bits(overlap, shape):
    """Also where the network looks at the other windows of its batch."""
    image = noise(*shape, 2)

    def run(batch):
        return lopsided(batch) + batch.mean()

    def strips(start):
        return list(
            stitch.strips(
                lambda top, bottom: image[top:bottom],
                shape,
                run,
                window=16,
                overlap=overlap,
                batch_size=3,
                start=start,
                by_rows=True,
            )
        )

    whole = strips(0)
    for start in range(0, shape[0], 3):
        found = strips(start)
        top, first = found[0]
        assert top <= start < top + len(first)
        for (at, strip), (other_at, other) in zip(
            found, whole[-len(found) :], strict=True
        ):
            assert at == other_at
            np.testing.assert_array_equal(strip, other)


def test_a_failure_of_the_network_is_the_callers():
    def run(batch):
        raise MemoryError("of the network")

    with pytest.raises(MemoryError, match="of the network"):
        stitch.stitch(noise(40, 40, 1), run, window=16, overlap=0, batch_size=2)


def blank_rows(top, bottom, width=40):
    return np.zeros((bottom - top, width, 1), np.float32)


def by_rows(rows, run, height=80, width=40, **settings):
    """Windows of 16 px, three in a row, in batches of two."""
    settings = {"overlap": 0, "batch_size": 2, **settings}
    return stitch.strips(
        rows, (height, width), run, window=16, by_rows=True, **settings
    )


def test_the_network_goes_on_over_the_rows_of_windows():
    """The last batch of a row waits for the next row to be cut; a strip is
    used until a batch of the next row runs."""
    cut, ran = [threading.Event() for _ in range(5)], []
    next_runs = [threading.Event() for _ in range(6)]

    def rows(top, bottom):
        cut[top // 16].set()
        return blank_rows(top, bottom)

    def run(batch):
        row = len(ran) // 2  # two batches each
        next_runs[row].set()
        ran.append(row)
        assert row == 4 or cut[row + 1].wait(30)
        return batch

    strips = by_rows(rows, run)
    for row, _ in enumerate(strips):
        assert row == 4 or next_runs[row + 1].wait(30)
    assert ran == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("n_calls", [1, 2])
def test_as_many_batches_run_at_a_time_as_asked_and_few_wait(n_calls):
    together = threading.Barrier(n_calls)
    now, most, begun, done = [], [], [], 0

    def run(batch):
        now.append(1)
        begun.append(1)
        most.append(len(now))
        together.wait(30)
        now.pop()
        return batch

    def rows(top, bottom):
        assert top // 16 * 2 - done <= 3 + 2  # a strip has two batches
        return blank_rows(top, bottom)

    for _ in by_rows(rows, run, height=16 * 12, n_calls=n_calls):
        done += 2
        assert len(begun) <= done + 3
    assert len(begun) == 24
    assert max(most) == n_calls


@pytest.mark.parametrize(
    "width, batch_size, tta, size, n_calls",
    [
        (16, 16, 1, 1, 1),
        (16 * 21, 16, 1, 11, 2),
        (16 * 21, 4, 1, 4, 6),
        (16 * 23, 16, 1, 12, 2),
        (16 * 5, 16, 8, 14, 3),
        (16 * 5, 1, 1, 1, 5),
    ],
)
def test_a_row_of_windows_is_few_batches_filled_evenly(
    width, batch_size, tta, size, n_calls
):
    """The same for every row, so that a stream may start at any."""
    for start in (0, 20, 50):
        sizes = []

        def run(batch, sizes=sizes):
            sizes.append(len(batch))
            return batch

        strips = by_rows(
            lambda top, bottom: blank_rows(top, bottom, width),
            run,
            64,
            width,
            batch_size=batch_size,
            tta=tta,
            start=start,
        )
        assert sizes == [size] * n_calls * len(list(strips))


@pytest.mark.parametrize("where", ["run", "rows", "caller", "close"])
def test_no_thread_outlives_a_failure(where):
    """It is the caller's after three more batches at most."""
    before, ran, read = set(threading.enumerate()), [], []

    def fail(here, times):
        if here == where and len(times) == 4:
            raise Failed

    def rows(top, bottom):
        read.append(1)
        fail("rows", read)
        return blank_rows(top, bottom)

    def run(batch):
        ran.append(1)
        fail("run", ran)
        return batch

    strips = by_rows(rows, run, height=16 * 30)
    if where == "close":
        next(strips)
        strips.close()
    else:
        with pytest.raises(Failed):
            for n, _ in enumerate(strips):
                fail("caller", range(n + 2))
        del strips
    assert set(threading.enumerate()) == before
    assert len(ran) <= 4 * 2 + 3


class Failed(Exception):
    pass
