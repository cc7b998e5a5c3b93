"""The web application in a real Chromium, by mouse, keys and fingers."""

import io
import pathlib
import re
import time

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg.images import formats
from tests.browser import mlflow_ui
from tests.serve.conftest import (
    draw,
    png,
    save_model,
    save_models,
    serving,
    until,
)

pytestmark = mlflow_ui.MARKS

PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    scaled = save_model(folder / "scaled", data__pixel_size=0.25)
    with serving([*save_models(folder), str(scaled)]) as found:
        yield found


@pytest.fixture(scope="module")
def chromium():
    with mlflow_ui.browser() as page:
        yield page.context.browser


@pytest.fixture
def page(site, chromium, request):
    """A fresh page; its errors and its requests elsewhere fail the test."""
    options = getattr(
        request, "param", {"viewport": {"width": 1280, "height": 800}}
    )
    context = chromium.new_context(accept_downloads=True, **options)
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    wrong = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request",
        lambda asked: (
            asked.url.startswith((site.address, "blob:"))
            or wrong.append(asked.url)
        ),
    )
    opened.on(
        "console",
        lambda message: (
            "Content Security Policy" in message.text
            and wrong.append(message.text)
        ),
    )
    # Playwright begins to catch dialogs of files only some time after the first
    # listener; until then Chromium drops them.
    opened.on("filechooser", lambda chooser: None)
    opened.goto(site.address)
    opened.bring_to_front()  # or its keys open no dialog of files
    wait(opened, "document.querySelector('#limits').textContent")
    yield opened
    context.close()
    assert not wrong


@pytest.fixture
def photos(tmp_path):
    """Two images of nuclei, 96 x 128, one of them cut by the border."""
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for i, path in enumerate(paths):
        pixels = draw(i)
        pixels[30:50, :20] = pixels.max()
        path.write_bytes(png(pixels))
    return paths


def wait(page, holds, arg=None):
    """Waits until JavaScript holds; asked from outside, past the policy."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(holds, arg):
        assert time.monotonic() < end, holds
        page.wait_for_timeout(30)


def count(page):
    """The number of objects that the page tells."""
    return int(page.inner_text("#numbers .big").split()[0].replace(",", ""))


def opened(page, paths):
    """Opens images and waits for the result of the last."""
    page.set_input_files("#files", [str(path) for path in paths])
    states = "document.querySelectorAll('#images .state')"
    wait(
        page,
        f"[...{states}].filter((s) => / objects?$/.test(s.textContent))"
        f".length === {len(paths)}",
    )
    page.wait_for_selector("#numbers .big")
    wait(page, "!document.querySelector('#panel.busy')")


def settled(page, change):
    """Makes a change; returns the counts before and after it."""
    before = count(page)
    change()
    wait(
        page,
        f"!document.querySelector('#numbers .big').textContent"
        f".startsWith('{before} ')",
    )
    wait(page, "!document.querySelector('#panel.busy')")
    return before, count(page)


def slide(page, selector, value):
    page.evaluate(
        """([selector, value]) => {
          const slider = document.querySelector(selector);
          slider.value = value;
          slider.dispatchEvent(new Event("input"));
          slider.dispatchEvent(new Event("change"));
        }""",
        [selector, value],
    )


def painted(page):
    """The canvas as it is, RGB."""
    page.wait_for_timeout(150)
    shot = page.locator("#canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def coloured(picture):
    """How many pixels are no grey."""
    return int((picture.max(-1) - picture.min(-1) > 25).sum())


def at(page, object):
    """Where an object's box has its middle on the screen."""
    scale = int(page.inner_text("#scale").rstrip("%")) / 100
    box = page.locator("#canvas").bounding_box()
    left = (box["width"] - 128 * scale) / 2
    top = (box["height"] - 96 * scale) / 2
    return (
        box["x"] + left + (object["col"] + 0.5) * scale,
        box["y"] + top + (object["row"] + 0.5) * scale,
    )


def largest(site, content):
    """The largest object of an image, as the API tells it."""
    objects = site.upload(content).json()["objects"]
    return max(objects, key=lambda row: row["area_px"])


def test_an_upload_shows_objects_numbers_areas_and_a_table(site, page, photos):
    opened(page, photos)
    found = site.upload(photos[0].read_bytes()).json()
    assert count(page) == found["count"]
    assert coloured(painted(page)) > 2000
    assert page.locator("#objects tbody tr").count() == found["count"]
    bars = page.locator("#histogram .bar title").all_text_contents()
    assert sum(int(text.split(": ")[1]) for text in bars) == found["count"]
    assert page.locator("#images img.thumb:visible").count() == 2
    names = page.locator("#images .name").all_inner_texts()
    assert names == ["first.png", "second.png"]
    assert "first.png" in page.inner_text("#status")
    page.click("#images li:nth-child(2) .pick")
    wait(
        page,
        "document.querySelector('#result-title').textContent === 'second.png'",
    )


def test_dropping_a_file_opens_it(page, photos):
    content = list(photos[0].read_bytes())
    page.evaluate(
        """(content) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(content)], "dropped.png"));
          const event = {bubbles: true, cancelable: true, dataTransfer: data};
          document.body.dispatchEvent(new DragEvent("drop", event));
        }""",
        content,
    )
    page.wait_for_selector("#numbers .big")
    assert page.inner_text("#result-title") == "dropped.png"


def test_settings_act_at_once_on_all_images(site, page, photos):
    opened(page, photos)
    n_batches = site.n_batches[0]
    others = page.inner_text("#images li:nth-child(2) .state")
    low, high = settled(page, lambda: slide(page, "#threshold", 0.9))
    assert low != high
    id_of = site.upload(photos[0].read_bytes(), threshold=0.9).json()
    assert high == id_of["count"]
    wait(
        page,
        "(old) => document.querySelector('#images li:nth-child(2) .state')"
        ".textContent !== old",
        arg=others,
    )
    n_batches += 4  # of the upload above
    assert site.n_batches[0] - n_batches < 4
    settled(page, lambda: page.click("#reset"))
    assert count(page) == low
    _, fewer = settled(page, lambda: slide(page, "#min_area_0", 150))
    assert fewer < low
    assert (
        int(page.locator("#sliders input[type=number]").nth(1).input_value())
        > 9
    )
    settled(page, lambda: page.click("#reset"))
    _, inside = settled(page, lambda: page.check("#drop_border"))
    assert inside < low
    settled(page, lambda: page.click("#reset"))
    rows = site.upload(photos[0].read_bytes()).json()["objects"]
    known = [row["probability"] for row in rows]
    least = round(float(np.median(known)), 2)
    _, sure = settled(page, lambda: slide(page, "#min_probability", least))
    assert sure == sum(value >= least for value in known) < low


def test_a_number_can_be_typed(page, photos):
    opened(page, photos[:1])
    field = page.locator("#sliders input[type=number]").nth(1)
    settled(page, lambda: field.fill("100000"))
    assert count(page) == 0
    assert "No objects" in page.inner_text("#histogram")


def test_layers_are_toggled(page, photos):
    opened(page, photos[:1])
    whole = painted(page)
    page.click("[data-layer=fill]")
    until(lambda: 0 < coloured(painted(page)) < coloured(whole))
    page.click("[data-layer=outline]")
    until(lambda: coloured(painted(page)) == 0)
    assert painted(page).std() > 10
    page.click("[data-layer=image]")
    until(lambda: painted(page)[2:-2, 2:-2].std((0, 1)).max() < 1)
    assert page.get_attribute("[data-layer=fill]", "aria-pressed") == "false"


def test_hovering_shows_measurements_and_a_click_keeps_them(site, page, photos):
    opened(page, photos[:1])
    object = largest(site, photos[0].read_bytes())
    page.mouse.move(*at(page, object))
    page.wait_for_selector("#tip:visible")
    text = page.inner_text("#tip")
    assert f"Object {object['label']}" in text
    assert f"{object['area_px']} px" in text
    page.mouse.click(*at(page, object))
    page.mouse.move(5, 5)
    assert page.is_visible("#tip")
    row = page.locator("#objects tr[aria-selected=true] td").first
    assert row.inner_text() == str(object["label"])
    assert page.locator("#histogram .bar.on").count() == 1
    page.keyboard.press("Escape")
    assert page.is_hidden("#tip")


def test_wheel_and_drag_zoom_and_pan(page, photos):
    opened(page, photos[:1])
    fitted = page.inner_text("#scale")
    box = page.locator("#canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -300)
    wait(
        page,
        "(old) => document.querySelector('#scale').textContent !== old",
        arg=fitted,
    )
    before = painted(page)
    page.mouse.down()
    page.mouse.move(middle[0] + 120, middle[1] + 60, steps=5)
    page.mouse.up()
    moved = painted(page)
    assert (
        np.abs(moved[80:-80, 140:-20] - before[20:-140, 20:-140]) < 40
    ).mean() > 0.9
    page.click("[data-zoom=fit]")
    page.wait_for_timeout(100)
    assert page.inner_text("#scale") == fitted


def test_all_of_it_by_keyboard(page, photos):
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("o")
    chooser.value.set_files([str(path) for path in photos])
    page.wait_for_selector("#numbers .big")
    first = page.inner_text("#result-title")
    page.keyboard.press("PageDown")
    wait(
        page,
        f"document.querySelector('#result-title').textContent !== '{first}'",
    )
    page.keyboard.press("n")
    assert "Object 1" in page.inner_text("#tip")
    assert "Object 1: Area" in page.inner_text("#status")
    page.keyboard.press("n")
    assert "Object 2" in page.inner_text("#tip")
    page.keyboard.press("p")
    assert "Object 1" in page.inner_text("#tip")
    before = coloured(painted(page))
    page.keyboard.press("2")
    assert coloured(painted(page)) < before
    page.focus("#canvas")
    scale = page.inner_text("#scale")
    page.keyboard.press("+")
    page.wait_for_timeout(100)
    assert page.inner_text("#scale") != scale
    zoomed = painted(page)
    page.keyboard.press("ArrowRight")
    assert (painted(page) != zoomed).any()
    page.focus("#threshold")
    settled(page, lambda: [page.keyboard.press("PageUp") for _ in range(4)])
    page.locator("#objects tbody tr").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#objects tr[aria-selected=true]").count() == 1
    page.keyboard.press("?")
    assert page.is_visible("#about")
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    assert page.is_visible("#downloads")
    page.keyboard.press("Escape")
    assert page.is_hidden("#downloads")


def test_every_control_shows_its_focus_and_has_a_name(page, photos):
    opened(page, photos[:1])
    page.focus("#open")
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        about = page.evaluate(
            """() => {
              const at = document.activeElement;
              const named = at.ariaLabel || at.labels?.[0]?.textContent
                || at.textContent || at.title;
              const style = getComputedStyle(at);
              return [at === document.body, at.outerHTML.slice(0, 90),
                named.trim(), style.outlineStyle];
            }"""
        )
        if about[0]:
            break
        assert about[2], about
        assert about[3] == "solid", about
        seen.add(about[1])
    assert len(seen) > 15


def test_files_are_downloaded(site, page, photos, tmp_path):
    opened(page, photos)
    page.click("#download")
    with page.expect_download() as one:
        page.click("[data-format=labels]")
    assert one.value.suggested_filename == "first_labels.tif"
    one.value.save_as(tmp_path / "labels.tif")
    labels = tifffile.imread(tmp_path / "labels.tif")
    assert labels.shape == (96, 128) and labels.max() == count(page)
    page.click("#download")
    page.check("#scope [value=all]")
    with page.expect_download() as table:
        page.click("[data-format=csv]")
    assert table.value.suggested_filename == "objects.csv"
    table.value.save_as(tmp_path / "objects.csv")
    rows = formats.read_table(tmp_path / "objects.csv")
    assert {row["image"] for row in rows} == {"first", "second"}
    page.click("#download")
    with page.expect_download() as everything:
        page.click("#everything")
    assert everything.value.suggested_filename == "seg_results.zip"
    page.click("#download")
    listed = page.locator("#formats button").count()
    assert listed == len(formats.FORMATS)


def test_bad_files_are_told_and_the_others_go_on(site, page, photos, tmp_path):
    bad = tmp_path / "notes.png"
    bad.write_text("these are notes")
    cut = tmp_path / "cut.png"
    cut.write_bytes(photos[1].read_bytes()[:3000])
    huge = tmp_path / "huge.png"
    huge.write_bytes(photos[1].read_bytes() + bytes(site.state.max_bytes))
    wide = tmp_path / "wide.tif"
    tifffile.imwrite(wide, np.zeros((9000, 9000), np.uint8), compression="zlib")
    paths = [bad, cut, huge, wide, photos[0]]
    page.set_input_files("#files", [str(path) for path in paths])
    wait(page, "document.querySelectorAll('#problems div').length === 4")
    told = page.inner_text("#problems")
    assert "notes.png is not an image" in told
    assert "cut.png: corrupt or truncated" in told
    assert "huge.png has 2 MB" in told
    assert "wide.tif: 9000 x 9000 px are more than the 67 megapixels" in told
    for _ in range(4):
        page.click("#problems .close >> nth=0")
    assert page.inner_text("#problems") == ""
    page.wait_for_selector("#numbers .big")
    assert page.inner_text("#result-title") == "first.png"
    page.click("#images li.bad .pick >> nth=0")
    assert "cut.png: corrupt" in page.inner_text("#refused")
    page.set_input_files("#files", str(photos[1]))  # what is new is shown
    page.wait_for_selector("#result-title >> text=second.png")


def test_a_plane_of_a_stack_is_chosen(page, tmp_path):
    path = tmp_path / "stack.tif"
    planes = np.stack([draw(i) for i in range(5)])
    tifffile.imwrite(path, planes, metadata={"axes": "ZYX"}, imagej=True)
    page.set_input_files("#files", str(path))
    page.wait_for_selector("#planes:visible")
    assert page.input_value("#planes input") == "3"
    page.fill("#planes input", "2")
    page.click("#planes button")
    page.wait_for_selector("#numbers .big")
    assert page.inner_text("#result-title") == "stack.tif Z2"


@pytest.fixture
def sized(tmp_path):
    """An image that says that its pixels are 0.5 um wide and high."""
    path = tmp_path / "sized.tif"
    tifffile.imwrite(
        path, draw(0), imagej=True, resolution=(2, 2), metadata={"unit": "um"}
    )
    return path


def check_bar(page, side):
    """Returns the length of the scale bar; it is round, and true.

    side: of a pixel, micrometres.
    """
    page.wait_for_timeout(150)
    length = float(page.inner_text("#bar").removesuffix(" µm").replace(",", ""))
    assert f"{length:e}"[0] in "125" and float(f"{length:.0e}") == length
    scale = int(page.inner_text("#scale").rstrip("%")) / 100
    width = page.evaluate("parseFloat(getComputedStyle(bar).width)")
    assert width == pytest.approx(length / side * scale, rel=0.02)
    assert 140 / 2.5 < width <= 140
    return length


def test_sizes_are_in_micrometres_where_the_file_says_them(site, page, sized):
    opened(page, [sized])
    found = site.upload(sized.read_bytes()).json()
    areas = sorted(row["area_um2"] for row in found["objects"])
    numbers = page.inner_text("#numbers")
    median = float(re.search(r"Median area\n(.+) µm²", numbers)[1])
    assert median == pytest.approx(np.median(areas), abs=0.051)
    assert "Field of view\n64.0 \u00d7 48.0 µm" in numbers
    assert "Pixel size\n0.5 µm" in numbers
    assert page.is_hidden("#pixel-size")
    assert page.inner_text("#areas-title") == "Areas (µm²)"
    bars = page.locator("#histogram .bar title").all_text_contents()
    assert all("µm²" in text and "px" not in text for text in bars)
    ticks = page.locator("#histogram text").all_text_contents()[:-2]
    assert max(float(tick) for tick in ticks) <= 1.3 * areas[-1]
    first = found["objects"][0]
    cells = page.locator("#objects tbody tr").first.locator("td")
    area, diameter = cells.all_inner_texts()[1:3]
    assert re.fullmatch(r"\d+\.\d", area)
    assert float(area) == pytest.approx(first["area_um2"], abs=0.051)
    assert re.fullmatch(r"\d+\.\d\d", diameter)
    assert float(diameter) == pytest.approx(first["diameter_um"], abs=0.0051)
    head = page.inner_text("#objects thead").split()
    assert head.count("µm²") == head.count("µm") == 1
    page.mouse.move(*at(page, first))
    page.wait_for_selector("#tip:visible")
    tip = page.inner_text("#tip")
    assert f"Area\n{area} µm²" in tip
    assert f"Diameter\n{diameter} µm" in tip
    page.keyboard.press("n")
    assert "µm²" in page.inner_text("#status")


def test_the_scale_bar_follows_zoom_and_goes_without_a_size(
    page, sized, photos
):
    opened(page, [sized])
    lengths = {check_bar(page, 0.5)}
    for _ in range(6):
        page.click("[data-zoom=in]")
        lengths.add(check_bar(page, 0.5))
    assert len(lengths) > 2
    inside = page.locator("#board").bounding_box()
    bar = page.locator("#bar").bounding_box()
    assert bar["x"] + bar["width"] < inside["x"] + inside["width"]
    assert bar["y"] + bar["height"] < inside["y"] + inside["height"]
    page.set_input_files("#files", str(photos[1]))
    page.wait_for_selector("#result-title >> text=second.png")
    page.wait_for_timeout(150)
    assert page.is_hidden("#bar")
    assert re.search(r"Median area\n\d+ px", page.inner_text("#numbers"))
    assert "µm" not in page.inner_text("#numbers, #areas-title, #objects")


def test_pixels_that_are_not_square_have_areas_but_no_bar(page, tmp_path):
    path = tmp_path / "flat.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    tifffile.imwrite(path, draw(0), ome=True, metadata=metadata)
    opened(page, [path])
    assert "Pixel size\n0.5 \u00d7 0.25 µm" in page.inner_text("#numbers")
    head = page.inner_text("#objects thead").split()
    assert "µm²" in head and "µm" not in head and "px" in head
    assert page.is_hidden("#bar")


def test_the_size_of_a_pixel_is_typed(page, photos, tmp_path):
    opened(page, photos)
    assert page.is_hidden("#bar")
    field = page.locator("#pixel-size input")
    before = page.inner_text("#numbers")
    assert field.input_value() == ""
    field.focus()
    page.keyboard.type("0.5")
    page.keyboard.press("Tab")
    wait(
        page, "document.querySelector('#areas-title').textContent.includes('µ')"
    )
    # who has tabbed on is not thrown out
    assert page.evaluate("document.activeElement.id") == "threshold"
    assert check_bar(page, 0.5) > 0
    assert "Pixel size" not in page.inner_text("#numbers")
    page.click("#download")
    page.check("#scope [value=all]")
    with page.expect_download() as table:
        page.click("[data-format=csv]")
    table.value.save_as(tmp_path / "objects.csv")
    rows = formats.read_table(tmp_path / "objects.csv")
    assert {row["image"] for row in rows} == {"first", "second"}
    assert all(row["area_um2"] == row["area_px"] / 4 for row in rows)
    for wrong in ("-1", "0", "5000", "1e", "big"):
        field.fill("")
        field.focus()
        page.keyboard.type(wrong)
        page.keyboard.press("Enter")
        told = page.inner_text("#pixel-size-wrong")
        assert told.startswith("Give a number above 0") and told.count(".") == 2
        assert field.get_attribute("aria-invalid") == "true"
    assert page.is_visible("#bar")  # by the last size that was one
    field.fill("0,25")  # as half of Europe writes it
    page.keyboard.press("Enter")
    wait(
        page, "document.querySelector('#numbers').textContent.includes('32.0')"
    )
    check_bar(page, 0.25)
    field.fill("")
    page.keyboard.press("Enter")
    wait(page, "!document.querySelector('#numbers').textContent.includes('µ')")
    assert page.inner_text("#numbers") == before
    assert page.inner_text("#pixel-size-wrong") == ""


def test_a_model_of_known_size_sees_images_again_at_what_is_typed(
    site, page, photos, sized
):
    page.select_option("#model", "scaled")
    opened(page, [sized, photos[0]])
    page.click("#images li:nth-child(2) .pick")
    page.wait_for_selector("#result-title >> text=first.png")
    content = photos[0].read_bytes()
    expected = site.upload(content, model="scaled", pixel_size=0.4).json()
    n_batches = site.n_batches[0]
    settled(
        page,
        lambda: (
            page.fill("#pixel-size input", "0.4")
            or page.keyboard.press("Enter")
        ),
    )
    assert count(page) == expected["count"]
    again = site.n_batches[0] - n_batches
    site.upload(content, model="scaled", pixel_size=0.4)
    # the other one's file says its size
    assert again == site.n_batches[0] - n_batches - again


def test_the_least_area_is_in_the_unit_that_is_shown(site, page, sized, photos):
    opened(page, [photos[0], sized])
    field = page.get_by_label("Smallest area (px), as a number")
    assert field.input_value() == "9"
    settled(page, lambda: field.fill("40"))
    of_pixels = count(page)
    page.click("#images li:nth-child(2) .pick")
    page.wait_for_selector("#result-title >> text=sized.tif")
    field = page.get_by_label("Smallest area (µm²), as a number")
    wait(page, "!document.querySelector('#panel.busy')")
    assert field.input_value() == "10"  # those pixels
    settled(page, lambda: field.fill("30.25"))
    areas = [
        row["area_um2"]
        for row in site.upload(sized.read_bytes()).json()["objects"]
    ]
    assert count(page) == sum(area >= 30.25 for area in areas)
    assert page.locator("#histogram .least").count() == 1
    page.click("#images li:nth-child(1) .pick")
    page.wait_for_selector("#result-title >> text=first.png")
    wait(page, "!document.querySelector('#panel.busy')")
    assert count(page) == of_pixels
    assert "(px)" in page.inner_text("#sliders")
    page.click("#reset")
    page.click("#images li:nth-child(2) .pick")
    page.wait_for_selector("#result-title >> text=sized.tif")
    wait(page, "!document.querySelector('#panel.busy')")
    assert count(page) == len(areas)
    assert field.input_value() == "2.25"


def test_another_model_segments_again(page, photos):
    opened(page, photos)
    page.select_option("#model", "beads")
    page.wait_for_selector("#classes li >> nth=1")
    assert page.inner_text("#classes").split()[::2] == ["bead", "cell"]
    assert page.is_hidden("#threshold")
    # the least area of each class, and how sure an object must be
    assert page.locator("#sliders label").count() == 3


def test_what_the_server_forgot_is_sent_again(site, page, photos):
    opened(page, photos[:1])
    before = count(page)
    site.state.store.clear()
    settled(page, lambda: slide(page, "#min_area_0", 150))
    assert 0 < count(page) < before
    assert page.inner_text("#problems") == ""


def test_closing_an_image_forgets_it(site, page, photos):
    opened(page, photos)
    before = len(site.state.store)
    page.click("[aria-label='Close first.png']")
    wait(
        page,
        "document.querySelector('#result-title').textContent === 'second.png'",
    )
    page.click("[aria-label='Close second.png']")
    assert page.is_visible("#welcome")
    page.wait_for_timeout(300)
    assert len(site.state.store) == before - 2


@pytest.mark.parametrize(
    "page",
    [
        {
            "viewport": {"width": 360, "height": 740},
            "device_scale_factor": 2,
            "is_mobile": True,
            "has_touch": True,
            "color_scheme": "dark",
        }
    ],
    indirect=True,
)
def test_on_a_telephone_nothing_is_cut_off(site, page, photos):
    page.tap("#example")
    page.wait_for_selector("#numbers .big")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#objects tbody tr").first.tap()
    assert "Object 1" in page.inner_text("#tip")
    canvas = page.locator("#canvas").bounding_box()
    assert canvas["width"] > 340 and canvas["height"] > 200
    for selector in (
        "#open",
        "#download",
        "#help",
        "[data-layer=fill]",
        "[data-zoom=in]",
        "#threshold",
        "#pixel-size input",
        "#images .close",
    ):
        box = page.locator(selector).first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360, selector
        assert box["height"] >= 24, selector
    page.screenshot(path=pathlib.Path("phone.png"), full_page=True)
    with Image.open("phone.png") as picture:
        assert picture.width == 720
