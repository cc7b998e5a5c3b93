"""Claims about the API: results, settings without the network, downloads."""

import dataclasses
import io
import json
import re
import threading
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

import seg
from seg.images import about, formats, read
from seg.serve import answers, app, downloads, uploads, views
from tests.serve.conftest import draw, png, save_model, serving

KNOBS = {"threshold": 0.6, "min_area": 40, "drop_border": True}


@pytest.fixture(scope="module")
def content():
    return png(draw())


@pytest.fixture(scope="module")
def predictor(bundles):
    return seg.load(bundles[0], engine="jax")


@pytest.fixture
def image(site, content):
    """An uploaded image's answer."""
    answer = site.upload(content, name="cells.png")
    assert answer.status_code == 201, answer.text
    found = answer.json()
    yield found
    site.client.delete(f"/api/images/{found['id']}")


def changed(predictor, **knobs):
    """The segmentation of the test's image by other settings."""
    use = dataclasses.replace(predictor.config.predict, **knobs)
    pixels = draw()[..., None]
    return predictor.objects(
        pixels, predictor.probabilities(pixels), "cells.png", predict=use
    )


def ids(site, image, **query):
    """The labels that the page gets."""
    answer = site.client.get(f"/api/images/{image['id']}/labels", params=query)
    assert answer.status_code == 200, answer.text
    labels = np.frombuffer(answer.content, "<u4")
    return labels.reshape(image["view_height"], image["view_width"])


def test_an_upload_is_segmented_as_the_predictor_does(site, image, predictor):
    expected = predictor(draw(), name="cells.png")
    assert (image["height"], image["width"], image["step"]) == (96, 128, 1)
    assert image["count"] == len(expected.table) > 5
    for row, wanted in zip(image["objects"], expected.table, strict=True):
        wanted = {k: v for k, v in wanted.items() if k != "image"}
        assert row == pytest.approx(wanted, nan_ok=True)
    np.testing.assert_array_equal(ids(site, image), expected.labels)
    url = f"/api/images/{image['id']}/labels"  # for whom takes no deflate
    plain = site.client.get(url, headers={"Accept-Encoding": "identity"})
    assert len(plain.content) == 4 * 96 * 128
    areas = [row["area_px"] for row in expected.table]
    assert image["median_area_px"] == np.median(areas)
    assert image["covered"] == sum(areas) / (96 * 128)


def test_settings_change_the_result_without_the_network(site, image, predictor):
    before = site.n_batches[0]
    answer = site.client.get(f"/api/images/{image['id']}", params=KNOBS)
    found = answer.json()
    expected = changed(
        predictor, threshold=0.6, min_area=(40,), drop_border=True
    )
    assert found["count"] == len(expected.table) != image["count"]
    np.testing.assert_array_equal(ids(site, image, **KNOBS), expected.labels)
    assert found["settings"]["min_area"] == [40]
    assert site.n_batches[0] == before


def test_objects_that_are_not_sure_are_left_out(site, image):
    known = [row["probability"] for row in image["objects"]]
    least = float(np.median(known))
    query = {"min_probability": least}
    path = f"/api/images/{image['id']}"
    found = site.client.get(path, params=query).json()
    assert found["settings"]["min_probability"] == least
    kept = [value for value in known if value >= least]
    assert [row["probability"] for row in found["objects"]] == kept
    assert 0 < len(kept) < len(known)


def test_an_upload_may_bring_its_settings(site, content, image):
    found = site.upload(content, **KNOBS).json()
    later = site.client.get(f"/api/images/{image['id']}", params=KNOBS).json()
    assert found["objects"] == later["objects"]


def test_answers_are_made_beside_the_event_loop(site, content, monkeypatch):
    made, threads = answers.found, []

    def found(*args):
        threads.append(threading.current_thread().name)
        return made(*args)

    monkeypatch.setattr(answers, "found", found)
    id = site.upload(content).json()["id"]
    site.client.get(f"/api/images/{id}")
    assert len(threads) == 2
    assert all(name.startswith("ThreadPool") for name in threads)


def test_a_model_can_be_chosen_and_classes_have_areas_of_their_own(
    site, content
):
    about = site.client.get("/api/about").json()
    first, second = about["models"]
    assert (first["name"], second["name"]) == ("nuclei", "beads")
    assert first["has_threshold"] and not second["has_threshold"]
    assert second["settings"]["min_area"] == [4, 9]
    found = site.upload(content, model="beads").json()
    assert found["model"] == "beads"
    query = {"min_area": [1, 10**6]}
    kept = site.client.get(f"/api/images/{found['id']}", params=query).json()
    assert {row["class"] for row in kept["objects"]} <= {"bead"}
    assert kept["settings"]["min_area"] == [1, 10**6]


@pytest.mark.parametrize(
    "query, says",
    [
        ({"threshold": 2}, "threshold"),
        ({"min_area": -1}, "min_area"),
        ({"min_probability": 1.5}, "min_probability"),
        ({"min_area": [1, 2, 3]}, "min_area"),
        ({"separate": "magic"}, "separate"),
        ({"model": "nuclie"}, "did you mean nuclei?"),
        ({"select": "Z=1"}, "no axes to choose"),
        ({"pixel_size": 0}, "pixel_size: Input should be greater than 0"),
        ({"pixel_size": "nan"}, "pixel_size"),
        ({"pixel_size": 1e9}, "less than or equal to 1000"),
        ({"min_area_um2": "inf"}, "min_area_um2"),
        ({"min_area_um2": [1, 2], "pixel_size": 1}, "min_area"),
    ],
)
def test_a_wrong_setting_is_named(site, content, query, says):
    answer = site.upload(content, **query)
    assert answer.status_code == 422
    assert says in answer.json()["error"]


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_format_is_downloaded(site, image, name):
    url = f"/api/images/{image['id']}/files/{name}"
    answer = site.client.get(url)
    assert answer.status_code == 200
    assert len(answer.content) > 50
    named = answer.headers["Content-Disposition"]
    form = formats.FORMATS[name]
    expected = form.name.format(stem="cells")
    folder = name in ("crops", "omezarr")
    assert named.endswith(f"''{expected}{'.zip' * folder}")
    if folder:
        zipfile.ZipFile(io.BytesIO(answer.content)).testzip()


def test_a_download_is_what_is_on_the_screen(site, image, predictor, tmp_path):
    expected = changed(
        predictor, threshold=0.6, min_area=(40,), drop_border=True
    )
    url = f"/api/images/{image['id']}/files/"
    labels = site.client.get(f"{url}labels", params=KNOBS).content
    np.testing.assert_array_equal(
        tifffile.imread(io.BytesIO(labels)), expected.labels
    )
    path = tmp_path / "objects.csv"
    path.write_bytes(site.client.get(f"{url}csv", params=KNOBS).content)
    rows = formats.read_table(path)
    assert [row["area_px"] for row in rows] == [
        row["area_px"] for row in expected.table
    ]
    assert {row["image"] for row in rows} == {"cells"}
    coco = site.client.get(f"{url}coco", params=KNOBS).json()
    assert len(coco["annotations"]) == len(expected.table)
    assert coco["images"][0]["file_name"] == "cells.png"


def test_several_images_are_one_zip_with_one_table(site, image, tmp_path):
    other = site.upload(png(draw(1)), name="cells.tif").json()
    query = {"id": [image["id"], other["id"], image["id"]]}
    answer = site.client.get("/api/files", params=query)
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert sorted(archive.namelist()) == [
        "cells_2_labels.tif", "cells_2_overlay.png",
        "cells_labels.tif", "cells_overlay.png", "objects.csv",
    ]  # fmt: skip
    archive.extract("objects.csv", tmp_path)
    rows = formats.read_table(tmp_path / "objects.csv")
    names = [row["image"] for row in rows]
    assert names.count("cells") == image["count"]
    assert names.count("cells_2") == other["count"]
    alone = site.client.get("/api/files", params={**query, "format": "csv"})
    assert alone.content == archive.read("objects.csv")
    query["id"].append("0" * 32)
    assert site.client.get("/api/files", params=query).status_code == 404


def tiff_um(pixels, side):
    """The bytes of a TIFF that says how large its pixels are, in um."""
    file = io.BytesIO()
    tifffile.imwrite(
        file, pixels, imagej=True, resolution=(1 / side, 1 / side),
        metadata={"unit": "um"},
    )  # fmt: skip
    return file.getvalue()


def test_the_size_of_a_pixel_is_kept(site, image, predictor, tmp_path):
    content = tiff_um(draw(), 0.5)
    found = site.upload(content, name="um.tif").json()
    expected = predictor(content).table
    areas = [row["area_um2"] for row in expected]
    assert areas[0] == pytest.approx(expected[0]["area_px"] / 4)
    assert [row["area_um2"] for row in found["objects"]] == areas
    url = f"/api/images/{found['id']}"
    later = site.client.get(url, params=KNOBS).json()["objects"]
    assert later and all(row["row_um"] == row["row"] / 2 for row in later)
    labels = site.client.get(f"{url}/files/labels").content
    assert about.read_about(labels).pixel_size == pytest.approx((0.5, 0.5))
    # one table of an image that says it and of one that does not
    for ids in ([image["id"], found["id"]], [found["id"], image["id"]]):
        for name in ("csv", "parquet"):
            query = {"id": ids, "format": name}
            path = tmp_path / f"objects.{name}"
            path.write_bytes(
                site.client.get("/api/files", params=query).content
            )
            rows = read_rows(path)
            told = [row["area_um2"] for row in rows if row["image"] == "um"]
            assert told == pytest.approx(areas)


def test_the_size_of_a_pixel_can_be_given(site, image, tmp_path):
    """For files that do not say it; the network does not run again."""
    assert (image["pixel_size"], image["pixel_size_given"]) == (None, False)
    before = site.n_batches[0]
    url, given = f"/api/images/{image['id']}", {"pixel_size": 0.5}
    found = site.client.get(url, params=given).json()
    assert (found["pixel_size"], found["pixel_size_given"]) == (
        [0.5, 0.5],
        True,
    )
    assert [row["area_um2"] for row in found["objects"]] == [
        row["area_px"] / 4 for row in image["objects"]
    ]
    assert site.client.get(url).json() == image  # it is kept by nobody
    path = tmp_path / "objects.csv"
    path.write_bytes(site.client.get(f"{url}/files/csv", params=given).content)
    assert all(
        row["area_um2"] == row["area_px"] / 4
        for row in formats.read_table(path)
    )
    assert site.n_batches[0] == before
    of_file = site.upload(tiff_um(draw(), 0.2), **given).json()
    assert of_file["pixel_size"] == pytest.approx([0.2, 0.2])
    assert not of_file["pixel_size_given"]


@pytest.mark.parametrize("side", [0.325, 0.1, 7.0])
def test_least_areas_in_micrometres_keep_what_is_as_large(site, side):
    content = tiff_um(draw(), side)
    objects = site.upload(content).json()["objects"]
    least = sorted(row["area_um2"] for row in objects)[len(objects) // 2]
    kept = site.upload(content, min_area_um2=least, min_area=10**6).json()
    assert kept["settings"]["min_area"] == [round(least / side**2)]
    areas = [row["area_um2"] for row in kept["objects"]]
    assert areas == [
        row["area_um2"] for row in objects if row["area_um2"] >= least
    ]
    assert len(objects) > len(areas) > 0
    # 27 / 9, which floats make a little more than 3
    query = {"min_area_um2": 0.27, "pixel_size": 0.3}
    three = site.upload(png(draw()), **query).json()
    assert three["settings"]["min_area"] == [3]
    # those in pixels count where the size is not known
    unknown = site.upload(png(draw()), min_area_um2=least, min_area=30).json()
    assert unknown["settings"]["min_area"] == [30]


def read_rows(path):
    """The rows of a table of objects, CSV or Parquet."""
    if path.suffix == ".csv":
        return formats.read_table(path)
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(path).to_pylist()


def test_a_model_of_known_size_sees_an_image_at_that(tmp_path):
    folder = save_model(tmp_path / "sized", data__pixel_size=0.25)
    content = tiff_um(draw(height=48, width=64), 0.5)
    expected = seg.load(folder, engine="jax")(content).table
    with serving([str(folder)]) as site:
        found = site.upload(content).json()["objects"]
    assert found
    assert [row["area_px"] for row in found] == [
        row["area_px"] for row in expected
    ]
    assert [row["probability"] for row in found] == pytest.approx(
        [row["probability"] for row in expected]
    )


def test_such_a_model_takes_the_size_that_is_given(tmp_path):
    folder = save_model(tmp_path / "sized", data__pixel_size=0.25)
    pixels = draw(height=48, width=64)
    with serving([str(folder)]) as site:
        model = site.client.get("/api/about").json()["models"][0]
        of_file = site.upload(tiff_um(pixels, 0.5)).json()
        given = site.upload(png(pixels), pixel_size=0.5).json()
        none = site.upload(png(pixels)).json()
    assert model["pixel_size"] == 0.25
    assert given["objects"] == of_file["objects"] != none["objects"]


def test_what_a_file_says_wrongly_is_told_with_its_name(site):
    file = io.BytesIO()
    tifffile.imwrite(file, draw(), ome=True, metadata={"axes": "YX"})
    broken = file.getvalue().replace(b"<Pixels ", b"<Pix<ls ")
    answer = site.upload(broken, name="a.tif")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("a.tif: corrupt")


def test_every_format_has_a_title():
    assert downloads.TITLES.keys() == formats.FORMATS.keys()


def test_a_stack_says_what_to_choose(site):
    planes = np.stack([draw(i) for i in range(3)])
    file = io.BytesIO()
    tifffile.imwrite(file, planes, metadata={"axes": "ZYX"}, imagej=True)
    answer = site.upload(file.getvalue(), name="stack.tif")
    assert answer.status_code == 422
    assert answer.json()["choose"] == {"Z": 3}
    assert answer.json()["error"].startswith("stack.tif is a stack of 3")
    chosen = site.upload(file.getvalue(), select="Z=1").json()
    alone = site.upload(png(planes[1])).json()
    assert chosen["objects"] == alone["objects"]


@pytest.mark.parametrize("axes, first", [("ZCYX", {"Z": 3}), ("CYX", {})])
def test_channels_that_do_not_fit_are_to_be_chosen_too(site, axes, first):
    planes = np.stack([draw(i) for i in range(6)]).reshape(3, 2, *draw(0).shape)
    planes = planes if first else planes[1]
    file = io.BytesIO()
    tifffile.imwrite(file, planes, metadata={"axes": axes}, imagej=True)
    answer = site.upload(file.getvalue(), name="two.tif")
    assert answer.status_code == 422
    assert answer.json()["choose"] == first | {"C": 2}
    select = "Z=1,C=0" if first else "C=0"
    chosen = site.upload(file.getvalue(), select=select).json()
    alone = site.upload(png(draw(2))).json()
    assert chosen["objects"] == alone["objects"]


def test_a_large_image_is_shown_reduced_and_measured_whole(monkeypatch, site):
    monkeypatch.setattr(views, "PIXELS", 4000)
    found = site.upload(png(draw())).json()
    assert (found["step"], found["view_height"], found["view_width"]) == (
        2,
        48,
        64,
    )
    url = f"/api/images/{found['id']}"
    picture = Image.open(
        io.BytesIO(site.client.get(f"{url}/image.png").content)
    )
    assert picture.size == (64, 48)
    small = site.client.get(f"{url}/image.png", params={"side": 20}).content
    assert max(Image.open(io.BytesIO(small)).size) <= 20
    monkeypatch.undo()
    whole = site.client.get(url).json()
    assert whole["objects"] == found["objects"]
    np.testing.assert_array_equal(ids(site, whole)[::2, ::2].shape, (48, 64))


def test_sixteen_bits_are_stretched_for_the_eye(site):
    dim = (draw() / 65535 * 300).astype(np.uint16)
    found = site.upload(png(dim)).json()
    shown = site.client.get(f"/api/images/{found['id']}/image.png").content
    pixels = np.asarray(Image.open(io.BytesIO(shown)))
    assert pixels.dtype == np.uint8 and pixels.max() == 255
    assert pixels.std() > 10


def test_what_is_deleted_is_gone(site, content):
    id = site.upload(content).json()["id"]
    assert site.client.delete(f"/api/images/{id}").status_code == 204
    for method, url in (
        ("DELETE", f"/api/images/{id}"),
        ("GET", f"/api/images/{id}"),
        ("GET", f"/api/images/{id}/labels"),
        ("GET", f"/api/images/{id}/image.png"),
        ("GET", f"/api/images/{id}/files/csv"),
    ):
        answer = site.client.request(method, url)
        assert answer.status_code == 404
        assert "Open the image again" in answer.json()["error"]


def test_the_example_is_an_image(site):
    content = site.client.get("/api/example.png").content
    assert read.read_image(content).shape == (512, 640, 1)
    assert len(content) < uploads.MAX_PIXELS


def test_openapi_describes_every_route_and_answer(site):
    told = site.client.get("/openapi.json").json()
    assert told["info"]["title"] == "seg"
    assert set(told["paths"]) == {
        "/api/about", "/api/example.png", "/api/images", "/api/images/{id}",
        "/api/images/{id}/image.png", "/api/images/{id}/labels",
        "/api/images/{id}/files/{format}", "/api/files",
    }  # fmt: skip
    for path, methods in told["paths"].items():
        for method, route in methods.items():
            assert route["summary"], (path, method)
            for parameter in route.get("parameters", ()):
                assert parameter["description"] or parameter["name"] in path
            for status, answer in route["responses"].items():
                if status >= "400":
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema["$ref"].endswith("/Error"), (path, status)
    assert "file" in json.dumps(told["paths"]["/api/images"]["post"])
    found = told["components"]["schemas"]["Found"]["properties"]
    assert {"count", "objects", "settings"} <= set(found)
    for elsewhere in ("/docs", "/redoc"):  # they load scripts from a CDN
        assert site.client.get(elsewhere).status_code == 404


def test_the_page_is_whole_and_asks_nobody_else(site):
    page = site.client.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", page.text)
    wanted = set(re.findall(r'(?:src|href)="([^"#]+)"', page.text))
    scripts = {path.name for path in app.PAGE.iterdir()} - {"index.html"}
    assert scripts <= wanted | {
        name
        for script in app.PAGE.glob("*.js")
        for name in re.findall(r'from "\./([^"]+)"', script.read_text())
    }
    for name in wanted | scripts:
        answer = site.client.get(f"/{name}")
        assert answer.status_code == 200, name
        urls = re.findall(r"https?://[^\s\"')]+", answer.text)
        assert set(urls) <= {"http://www.w3.org/2000/svg"}, name


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/nothing", "/app.py", "/..%2fapp.py", "/page/"]
)
def test_what_is_not_there_is_404(site, path):
    answer = site.client.get(path)
    assert answer.status_code == 404
    assert answer.json() == {"error": "Not Found."}
