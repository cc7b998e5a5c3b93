"""What is bad, hostile, too large, too much or gone: a sentence, no leak."""

import io
import json
import pathlib
import socket
import struct
import tempfile
import threading
import time
import zlib
from concurrent import futures

import numpy as np
import pytest
import tifffile

from seg import config
from seg.images import read
from seg.predict import segmentation
from seg.serve import guard, results, state, store, uploads
from tests.serve.conftest import MAX_BYTES, draw, png, serving, until


def sentence(answer, status):
    """The error of an answer, which is one sentence and no traceback."""
    assert answer.status_code == status, answer.text
    told = answer.json()
    text = told["error"]
    assert set(told) <= {"error", "choose"}
    assert text.endswith(".") and "\n" not in text
    assert not any(
        word in text + answer.text for word in ("Traceback", ".py", "Error(")
    )
    return text


def bomb_png(width=30000, height=30000):
    """A PNG of 900 megapixels in 100 kB and less: header and some zeros."""

    def chunk(kind, data):
        size, check = struct.pack(">I", len(data)), zlib.crc32(kind + data)
        return size + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


def bomb_tiff():
    file = io.BytesIO()
    zeros = np.zeros((8200, 8200), np.uint32)
    tifffile.imwrite(file, zeros, compression="zlib", rowsperstrip=8200)
    return file.getvalue()


def test_bombs_are_refused_from_their_header(site):
    for content in (bomb_png(), bomb_tiff(), bomb_png(9000, 9000)):
        start = time.monotonic()
        text = sentence(site.upload(content, name="big.png"), 413)
        assert text.startswith("big.png")
        assert "cut it" in text or "`seg predict`" in text
        assert time.monotonic() - start < 5


def test_channels_count_before_they_are_decoded(site, monkeypatch):
    file = io.BytesIO()
    channels = np.zeros((9, 64, 64), np.uint16)
    tifffile.imwrite(
        file, channels, metadata={"axes": "CYX"}, compression="zlib",
        photometric="minisblack",
    )  # fmt: skip
    monkeypatch.setattr(uploads, "MAX_BYTES", 64 * 64 * 2 * 8)
    assert site.upload(file.getvalue(), select="C=3").status_code == 201
    monkeypatch.setattr(read, "read_image", None)  # nothing is decoded
    text = sentence(site.upload(file.getvalue(), name="a.tif"), 413)
    assert text.startswith("a.tif") and "select=C=0" in text


@pytest.mark.parametrize(
    "content, status, says",
    [
        (b"", 400, "is empty"),
        (b"hello, I am a text", 415, "not an image"),
        (b"PK\x03\x04" + bytes(100), 415, "not an image"),
        (b"\x80\x04\x95" + bytes(100), 415, "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), 422, "corrupt or truncated"),
        (png(draw())[:3000], 422, "corrupt or truncated"),
        (b"II*\0" + bytes(60), 422, "x.png"),
    ],
)
def test_a_bad_file_is_told_in_a_sentence(site, content, status, says):
    text = sentence(site.upload(content, name="x.png"), status)
    assert says in text and text.startswith("x.png")


def test_the_type_is_told_by_bytes_not_by_name(site):
    answer = site.upload(png(draw()), name="notes.txt")
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "name, called",
    [
        ("../../etc/passwd.png", "passwd.png"),
        ("/abs/olute.tif", "olute.tif"),
        ("C:\\temp\\cells.tif", "cells.tif"),
        ("a\0b\nc.png", "abc.png"),
        ("..", "image"),
        ("  ", "image"),
        ("x" * 5000 + ".png", "x" * 116 + ".png"),
        ("Zellen ä 日本.tif", "Zellen ä 日本.tif"),
        ('"><img src=x onerror=alert(1)>', '"><img src=x onerror=alert(1)>'),
    ],
)
def test_names_of_uploads_are_for_people_only(site, name, called):
    assert uploads.called(name) == called
    answer = site.upload(png(draw()), name=name)
    assert answer.json()["name"] == called
    url = f"/api/images/{answer.json()['id']}/files/labels"
    file = site.client.get(url).headers["Content-Disposition"]
    assert not set('/\\\0\n<>" ') & set(file.partition("''")[2])


def test_a_form_is_taken_too(site):
    files = {"file": ("../cells.png", png(draw()), "image/png")}
    answer = site.client.post("/api/images", files=files)
    assert answer.status_code == 201
    assert answer.json()["name"] == "cells.png"
    form = {"other": ("a.png", b"x")}
    text = sentence(site.client.post("/api/images", files=form), 400)
    assert "`file`" in text
    broken = site.client.post(
        "/api/images",
        content=b"nonsense",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    sentence(broken, 400)


def test_a_form_is_never_written_to_the_disk(site, monkeypatch):
    def written(*args, **kwargs):
        raise AssertionError("a file on the disk")

    monkeypatch.setattr(tempfile, "TemporaryFile", written)
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1500), np.uint8)
    content = png(noise)
    assert 1.5e6 < len(content) < MAX_BYTES
    form = {"file": ("a.png", content)}
    assert site.client.post("/api/images", files=form).status_code == 201
    assert site.upload(content).status_code == 201


def test_a_body_over_the_limit_is_413_however_it_comes(site, monkeypatch):
    monkeypatch.setattr(guard, "_LINGER_S", 0.5)
    large = png(draw()) + bytes(MAX_BYTES)
    assert "2 MB" in sentence(site.upload(large), 413)

    def pieces():
        for start in range(0, len(large), 100_000):
            yield large[start : start + 100_000]

    sentence(site.upload(pieces()), 413)
    files = {"file": ("a.png", large)}
    sentence(site.client.post("/api/images", files=files), 413)
    with raw(site) as link:  # more comes than was announced: it is cut off
        link.sendall(request(site, length=10) + bytes(1000))
        assert b" 415 " in link.recv(4000)
    assert site.state.uploads.n_taken == 0


def raw(site):
    host, port = site.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def request(site, length):
    host = site.address.removeprefix("http://")
    return (
        f"POST /api/images HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def test_a_vanished_client_leaves_nothing(site):
    content = png(draw())
    before = len(site.state.store)
    for _ in range(3):
        with raw(site) as link:  # in the middle of its upload
            link.sendall(request(site, len(content)) + content[:500])
            until(lambda: site.state.uploads.n_taken > 0)
    until(lambda: site.state.uploads.n_taken == 0)
    with raw(site) as link:  # before the answer
        link.sendall(request(site, len(content)) + content)
    until(lambda: site.state.uploads.n_taken == 0)
    assert len(site.state.store) <= before + 1


def test_a_slow_client_is_told(site, monkeypatch):
    monkeypatch.setattr(guard, "_IDLE_S", 0.3)
    with raw(site) as link:
        link.sendall(request(site, 5000) + b"\x89PNG\r\n\x1a\n")
        answer = b""
        while b"came to a halt" not in answer:  # the body may come later
            part = link.recv(4000)
            assert part, answer
            answer += part
    assert b" 408 " in answer.splitlines()[0] + b" "
    assert site.state.uploads.n_taken == 0


def test_fifty_uploads_at_once_are_answered_and_bounded(bundles):
    content = png(draw(height=128, width=128))
    of_one = 128 * 128 * (2 + 4)
    # a quarter is for what is found
    with serving(bundles, budget=40 * of_one // 3) as site:

        def upload(i):
            return site.upload(content, name=f"{i}.png")

        upload(0)
        with futures.ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(upload, range(50)))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {201, 429}
        for answer in answers:
            if answer.status_code == 429:
                assert "in a moment" in sentence(answer, 429)
                assert int(answer.headers["Retry-After"]) > 0
        assert site.state.uploads.n_taken == 0
        for _ in range(12):
            assert upload(0).status_code == 201
        assert site.state.store.n_bytes <= 10 * of_one
        assert len(site.state.store) == 10
        assert 0 < site.state.results.n_bytes <= 4 * of_one
        oldest = next(a for a in answers if a.status_code == 201).json()["id"]
        sentence(site.client.get(f"/api/images/{oldest}"), 404)
    assert len(site.state.store) == site.state.results.n_bytes == 0


def test_downloads_leave_no_files(site, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    id = site.upload(png(draw())).json()["id"]
    query = {"id": id, "format": ["labels", "crops", "omezarr", "csv"]}
    with site.client.stream("GET", "/api/files", params=query) as answer:
        next(answer.iter_bytes())  # and the client goes
    site.client.get(f"/api/images/{id}/files/crops")
    until(lambda: not list(tmp_path.iterdir()))


def test_a_bug_is_500_without_its_traceback(site, monkeypatch, caplog):
    def broken(id):
        raise RuntimeError("secret of /home/me/app.py")

    monkeypatch.setattr(site.state.store, "get", broken)
    answer = site.client.get("/api/images/x")
    text = sentence(answer, 500)
    assert "secret" not in text and "terminal" in text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    until(lambda: "secret" in caplog.text)  # for who runs the server


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8000"},
        {"Host": "192.0.2.7"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost@evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_spoofed_host_or_origin_is_403(site, headers):
    for method in ("GET", "POST"):
        sentence(
            site.client.request(method, "/api/about", headers=headers), 403
        )


def test_the_page_itself_may_ask(site):
    headers = {"Origin": site.address, "Sec-Fetch-Site": "same-origin"}
    assert site.client.get("/api/about", headers=headers).status_code == 200
    port = site.address.rpartition(":")[2]
    for host in (f"localhost:{port}", "localhost:9999", "[::1]:80"):
        answer = site.client.get("/api/about", headers={"Host": host})
        assert answer.status_code == 200
    # a link on another site may lead here
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert site.client.get("/", headers=headers).status_code == 200


def test_a_host_has_no_capitals(bundles):
    with serving(bundles[:1], host="Cells.Lab.org") as site:
        for host in ("cells.lab.org", "Cells.Lab.org:80"):
            answer = site.client.get("/api/about", headers={"Host": host})
            assert answer.status_code == 200, host
        headers = {"Host": "lab.org"}
        sentence(site.client.get("/api/about", headers=headers), 403)


@pytest.mark.parametrize("path", ["/", "/api/about", "/nothing", "/app.js"])
def test_every_answer_has_the_headers_of_safety(site, path):
    found = site.client.get(path).headers
    assert found["X-Content-Type-Options"] == "nosniff"
    policy = found["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert found["X-Frame-Options"] == "DENY"
    assert "Server" not in found


def test_beyond_this_machine_the_token_is_asked_for(bundles):
    token = "a-token-of-some-length"
    with serving(bundles[:1], token=token, host="0.0.0.0") as site:
        client = site.client
        assert client.get("/").status_code == 401
        assert "token" in sentence(client.get("/api/about"), 401)
        assert client.get("/?token=wrong").status_code == 401
        for wrong in ("Bearer wrong", "wrong", "Bearer ä".encode()):
            headers = {"Authorization": wrong}
            answer = client.get("/api/about", headers=headers)
            assert answer.status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get("/api/about", headers=headers).status_code == 200
        for host, status in (
            ("evil.example", 403),
            ("192.0.2.7", 200),
            (f"{socket.gethostname()}.example", 200),
        ):
            headers["Host"] = host
            answer = client.get("/api/about", headers=headers)
            assert answer.status_code == status, host
        answer = client.get(f"/?token={token}")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/")
        cookie = answer.headers["Set-Cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert client.get("/api/about").status_code == 200  # by the cookie


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def stored(n_bytes=100):
    pixels = np.zeros((n_bytes // 2, 1, 1), np.uint8)
    return store.Stored("a", None, pixels, pixels)


def test_the_store_forgets_by_bytes_then_by_age():
    clock = Clock()
    gone = []
    kept = store.Store(250, gone.append, clock)
    first, second, third = stored(), stored(), stored()
    kept.add(first)
    kept.add(second)
    assert kept.get(first.id) is first  # now the second is the oldest
    kept.add(third)
    with pytest.raises(store.Unknown):
        kept.get(second.id)
    kept.add(huge := stored(1000))  # alone it may be larger
    assert (len(kept), kept.get(huge.id)) == (1, huge)
    clock.now = store.MAX_AGE_S + 1
    kept.sweep()
    assert len(kept) == kept.n_bytes == 0
    for last in (stored(), stored()):
        kept.add(last)
    kept.remove(last.id)
    kept.clear()
    assert len(gone) == len(set(gone)) == 6
    assert gone[:4] == [second.id, first.id, third.id, huge.id]


class Drawn:
    """In place of a model: what it finds takes 5 bytes a pixel."""

    config = config.Config()

    def predictor(self):
        return self

    def objects(self, pixels, *args, **kwargs):
        shape = pixels.shape[:2]
        classes, labels = np.zeros(shape, np.uint8), np.zeros(shape, np.int32)
        return segmentation.Segmentation(classes, labels, segmentation.Table())


def test_what_was_found_goes_with_its_image_and_is_bounded():
    clock = Clock()
    shared = state.Application(MAX_BYTES, 4 * 2000)
    shared.store = store.Store(6000, shared.results.forget, clock)

    def found(n_pixels=100):
        pixels = np.zeros((n_pixels, 1, 1), np.uint8)
        one = store.Stored("a", Drawn(), pixels, pixels)
        shared.store.add(one)
        shared.results.of(one, results.Settings())
        return one

    first, second = found(), found()
    assert shared.results.n_bytes == 1000
    shared.results.of(second, results.Settings(threshold=0.9))
    assert shared.results.n_bytes == 1500
    shared.store.remove(second.id)  # both of its settings
    assert shared.results.n_bytes == 500
    found(3000)  # over both budgets: only the last stays
    assert shared.results.n_bytes == 5 * 3000
    with pytest.raises(store.Unknown):
        shared.store.get(first.id)
    clock.now = store.MAX_AGE_S + 1
    shared.sweep()
    assert shared.results.n_bytes == 0
    shared.results.of(first, results.Settings())  # it waited, and is gone
    shared.sweep()
    assert shared.results.n_bytes == 0
    shared.end()


def test_ids_cannot_be_guessed():
    ids = {stored().id for _ in range(100)}
    assert len(ids) == 100 and all(len(id) == 32 for id in ids)


def test_no_answer_is_slow_while_the_network_runs(site):
    content = png(draw(height=1024, width=900, n_objects=10))
    thread = threading.Thread(target=site.upload, args=(content,))
    thread.start()
    start = time.monotonic()
    json.loads(site.client.get("/api/about").content)
    assert time.monotonic() - start < 3
    thread.join()
    assert pathlib.Path.cwd().is_dir()
