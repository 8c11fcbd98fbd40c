"""The page in a real browser, used as a person does: by roles and names, at two sizes and in both schemes."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import Server

CHROMIUM = Path("/usr/bin/chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, to drive a browser")
axe_package = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python, to check accessibility")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs a browser: apt-get install chromium"),
]
AXE = next(Path(axe_package.__file__).parent.rglob("axe.min.js")).read_text()
PAYLOADS = [
    "<img src=x onerror=document.title='run'>",
    "<script>document.title='run'</script>",
    "\"><svg onload=document.title='run'>",
    "{{constructor.constructor('document.title=1')()}}",
    "javascript:document.title='run'",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(folder=tmp_path_factory.mktemp("page")).wait_ready()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(server, browser):
    """Open the page; at the end there are no messages on the console and no requests to elsewhere."""
    problems, pages = [], []

    def open_page(width=1280, scheme="light", address=None):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on(
            "console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda one: None if one.url.startswith((server.url, "blob:", "data:")) else problems.append(one.url),
        )
        page.goto(address or server.address)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert problems == []


def picture(path: Path, name: str = "scan.png") -> Path:
    """Write a dark picture with a bright disc at (200, 96) of radius 20, and return its path."""
    y, x = np.mgrid[:240, :320]
    disc = (x - 200) ** 2 + (y - 96) ** 2 < 400
    Image.fromarray((50 + 150 * disc).astype(np.uint8)).save(path / name)
    return path / name


def choose(page, file):
    page.get_by_label("Image", exact=True).set_input_files(file)
    status(page, "Ask about the image.")


def status(page, text):
    page.get_by_role("status").get_by_text(text).wait_for(timeout=60_000)


def ask(page, question="Which bright spot is new?"):
    page.get_by_role("textbox", name="Question").fill(question)
    page.get_by_role("button", name="Ground").click()
    status(page, "Done.")


def findings(page):
    page.evaluate(AXE)
    results = page.evaluate("axe.run(document, {resultTypes: ['violations', 'incomplete']})")
    return [(one["id"], one["impact"]) for kind in ("violations", "incomplete") for one in results[kind]]


def saved(page, name):
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    return Path(download.value.path()).read_bytes()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_question_is_answered_without_findings_of_axe(visit, tmp_path, width, scheme):
    page = visit(width, scheme)
    assert findings(page) == []
    choose(page, picture(tmp_path))
    ask(page)
    assert page.get_by_role("button", name="Region 1").is_visible()
    assert findings(page) == []
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert page.get_by_text("Research software, not a medical device.").is_visible()
    page.mouse.wheel(0, 5000)
    assert page.get_by_text("Research software, not a medical device.").bounding_box()["y"] < 800


def test_the_mask_of_the_download_is_the_one_that_is_drawn_and_the_one_of_the_server(visit, server, tmp_path):
    page, file = visit(), picture(tmp_path)
    choose(page, file)
    ask(page)
    _, expected = server.ground(file.read_bytes(), "Which bright spot is new?", masks="png")
    mask = np.asarray(Image.open(io.BytesIO(saved(page, "Mask (PNG)"))).convert("L")) > 0
    truth = np.asarray(Image.open(io.BytesIO(base64.b64decode(expected["mask"]["png"])))) > 0
    assert truth.any() and (mask == truth).all()
    overlay = np.asarray(Image.open(io.BytesIO(saved(page, "Overlay (PNG)"))).convert("RGB")).astype(int)
    fine = overlay.shape[0] // 240
    tinted = np.abs(overlay[..., 0] - overlay[..., 1])[fine // 2 :: fine, fine // 2 :: fine] > 10
    assert (tinted & truth).sum() > 0.8 * truth.sum()
    answer = json.loads(saved(page, "JSON"))
    assert answer["box"] == expected["box"] and answer["statement"]


def test_a_box_that_is_dragged_replaces_the_mask_and_undo_brings_it_back(visit, tmp_path):
    page = visit()
    choose(page, picture(tmp_path))
    ask(page)
    before = page.get_by_role("button", name="Region 1").inner_text()
    page.get_by_label("Draw a box").check()
    corner, end = spot(page, 170, 66), spot(page, 230, 126)
    page.mouse.move(*corner)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()
    status(page, "Corrected.")
    region = page.get_by_role("button", name="Region 1").inner_text()
    x1, y1, x2, y2 = (float(word) for word in region.partition("box ")[2].partition(" px")[0].split(", "))
    assert np.allclose([x1, y1, x2, y2], [170, 66, 230, 126], atol=1.5) and "corrected by you" in region
    page.get_by_role("button", name="Undo").click()
    assert page.get_by_role("button", name="Region 1").inner_text() == before


def test_the_keyboard_alone_draws_a_region_without_a_question(visit, tmp_path):
    page = visit()
    choose(page, picture(tmp_path))
    page.get_by_label("Point inside").check()
    canvas = page.get_by_role("application")
    canvas.focus()
    for key in ["Shift+ArrowRight"] * 4 + ["Shift+ArrowUp"] * 2 + ["ArrowUp"] * 4 + ["Enter"]:
        page.keyboard.press(key)
    status(page, "Corrected.")
    mask = np.asarray(Image.open(io.BytesIO(saved(page, "Mask (PNG)"))).convert("L")) > 0
    y, x = np.mgrid[:240, :320]
    disc = (x - 200) ** 2 + (y - 96) ** 2 < 400
    assert (mask & disc).sum() / (mask | disc).sum() > 0.9


def test_nothing_fits_is_an_answer_in_words(visit, tmp_path):
    page = visit()
    Image.new("L", (120, 90), 40).save(tmp_path / "flat.png")
    choose(page, tmp_path / "flat.png")
    page.route("**/ground", lambda route: route.fulfill(content_type="text/event-stream", body=NOTHING))
    ask(page)
    assert page.get_by_text("Nothing in the image fits the question.").is_visible()
    assert page.get_by_role("button", name="Region").count() == 0


NOTHING = 'event: answer\ndata: {"regions": [], "fault": null, "cause": "", "think": "All is dark.", "text": ""}\n\n'


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_is_never_run(visit, tmp_path, payload):
    page = visit()
    region = {"label": payload, "box": [1, 1, 9, 9], "points": [], "confidence": 0.5, "mask": None}
    answer = {"regions": [region], "fault": None, "cause": "", "think": payload, "text": payload}
    page.route(
        "**/ground",
        lambda route: route.fulfill(
            content_type="text/event-stream", body=f"event: answer\ndata: {json.dumps(answer)}\n\n"
        ),
    )
    choose(page, picture(tmp_path, f"{payload.replace('/', '_')[:60]}.png"))
    ask(page, payload)
    assert page.locator("#reasoning").inner_text() == payload
    assert page.get_by_role("button", name="Region 1").inner_text().count(payload) == 1
    assert page.title() == "medground"
    assert page.locator("main img, main svg, main script").count() == 0


def test_a_file_that_is_no_image_is_refused_in_a_sentence(visit, tmp_path, server, browser):
    (tmp_path / "notes.txt").write_text("no image")
    page = browser.new_page()  # the refusal itself is an error on the browser's console
    page.goto(server.address)
    page.get_by_label("Image", exact=True).set_input_files(tmp_path / "notes.txt")
    page.locator("#status.bad").wait_for()
    assert "image" in page.get_by_role("status").inner_text()
    assert page.get_by_role("button", name="Ground").is_disabled()
    page.close()


def test_without_the_token_the_page_says_what_to_do(browser, server):
    page = browser.new_page()
    page.goto(server.url)
    page.get_by_role("status").get_by_text("open the address that the server printed").wait_for()
    page.close()


def spot(page, x, y):
    """Return where on the screen a pixel of the 320 x 240 picture is."""
    page.locator("canvas").scroll_into_view_if_needed()
    box = page.locator("canvas").bounding_box()
    scale = min(box["width"] / 320, box["height"] / 240)
    left, top = box["x"] + (box["width"] - 320 * scale) / 2, box["y"] + (box["height"] - 240 * scale) / 2
    return left + x * scale, top + y * scale
