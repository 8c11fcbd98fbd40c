"""The page in a real browser, used as a person does: by roles and names, at two sizes and in both schemes."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from page_driver import answered, ask, button, choose, decoded, example, findings, same, saved, saved_mask, spot, status
from page_files import film, picture, series
from PIL import Image
from serving import Server, form

CHROMIUM = Path("/usr/bin/chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, to drive a browser")
axe_package = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python, to check accessibility")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs a browser: apt-get install chromium"),
]
AXE = next(Path(axe_package.__file__).parent.rglob("axe.min.js")).read_text()
DOCUMENT = Path(__file__).parents[3] / "docs" / "serve.md"
DISCLAIMER = "Research software, not a medical device."
PAYLOADS = [
    "<img src=x onerror=document.title='run'>",
    "<script>document.title='run'</script>",
    "\"><svg onload=document.title='run'>",
    "'><iframe srcdoc=\"<script>parent.document.title='run'</script>\">",
    "</p></textarea><script>document.title='run'</script>",
    "<a href=javascript:document.title='run' autofocus onfocus=document.title='run'>x</a>",
    "<details open ontoggle=document.title='run'>x</details>",
    "<style>@import 'data:text/css,*{display:none}';</style>",
    "{{constructor.constructor('document.title=1')()}}${document.title='run'}",
    "javascript:document.title='run'",
    "<math><mtext><table><mglyph><style><img src=x onerror=document.title='run'>",
]
CONTROLS = {
    "button": [
        "Ground", "Cancel", "CT", "Ultrasound", "Fundus", "Volume", "Undo", "Mask (PNG)", "Mask (NIfTI)", "Mask (DICOM SEG)",
        "Overlay (PNG)", "JSON",
    ],
    "textbox": ["Question"],
    "combobox": ["Plane", "Window"],
    "slider": ["Slice", "Opacity"],
    "checkbox": ["Mask", "Box", "Points", "With ellipse"],
    "radio": ["Off", "Draw a box", "Point inside", "Point outside"],
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    words = ("infer/toy", "prompt_interface=regions", "--compare", "ellipse")
    server = Server(*words, folder=tmp_path_factory.mktemp("page")).wait_ready()
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

    def open_page(width=1280):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on(
            "console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda one: None if one.url.startswith((server.url, "blob:", "data:")) else problems.append(one.url),
        )
        page.goto(server.address)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert problems == []


@pytest.mark.parametrize("width", [1280, 400])
def test_the_whole_path_has_no_findings_of_axe_in_either_scheme(visit, width):
    page = visit(width)
    page.evaluate(AXE)
    page.get_by_label("With ellipse").wait_for()
    assert findings(page) == []
    example(page, "Fundus")
    ask(page, "Which bright yellow patch has leaked from vessels?")
    page.get_by_label("With ellipse").check()
    page.get_by_text("ellipse, Dice").wait_for()
    assert findings(page) == []
    example(page, "Volume")
    page.get_by_role("slider", name="Slice").fill("12")
    ask(page, "Which bright region stands out?")
    assert button(page, "Mask (NIfTI)").is_enabled()
    assert findings(page) == []
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    for distance in (5000, -5000):
        page.mouse.wheel(0, distance)
        assert 0 <= page.get_by_text(DISCLAIMER).bounding_box()["y"] < 800


def test_every_control_is_there_after_two_steps_by_its_role_and_its_name_in_the_docs(visit):
    page, document = visit(), DOCUMENT.read_text()
    example(page, "Volume")
    ask(page)
    for role, names in CONTROLS.items():
        for name in names:
            assert page.get_by_role(role, name=name, exact=True).is_visible(), name
            assert f"**{name.replace('ellipse', 'NAME')}**" in document, name


def test_the_mask_of_the_download_is_the_one_that_is_drawn_and_the_one_of_the_server(visit, server, tmp_path):
    page, file = visit(), picture(tmp_path / "scan.png")
    choose(page, file)
    ask(page)
    _, expected = server.ground(file.read_bytes(), "Which bright spot is new?", masks="png")
    truth, mask = decoded(expected["mask"]["png"]) > 0, saved_mask(page)
    assert truth.any() and (mask == truth).all()
    overlay = np.asarray(Image.open(io.BytesIO(saved(page, "Overlay (PNG)"))).convert("RGB")).astype(int)
    fine = overlay.shape[0] // 240
    tinted = np.abs(overlay[..., 0] - overlay[..., 1])[fine // 2 :: fine, fine // 2 :: fine] > 10
    assert (tinted & truth).sum() > 0.8 * truth.sum()
    answer = json.loads(saved(page, "JSON"))
    assert answer["regions"][0]["box"] == expected["regions"][0]["box"] and answer["statement"]
    assert button(page, "Mask (DICOM SEG)").is_disabled()
    assert page.get_by_text("No DICOM SEG: image has no DICOM instances").is_visible()


def test_the_slider_shows_each_slice_and_the_answer_stays_with_its_own(visit, server):
    nibabel = pytest.importorskip("nibabel")
    page = visit()
    example(page, "Volume")
    data = server.get("/page/volume.nii.gz")[2]
    image = stored(server, data)
    slider = page.get_by_role("slider", name="Slice")
    slider.focus()
    for key in ("Home", "ArrowRight", "PageUp"):
        page.keyboard.press(key)
    number = int(slider.input_value())
    page.get_by_role("combobox", name="Window").select_option("bone")
    view = f"plane=axial&slice={number}&window=bone"
    expected = decoded(json.loads(server.get(f"/images/{image}?{view}")[2])["png"])[..., 0]
    assert number > 1 and same(page, expected)
    slider.fill("12")
    ask(page, "Which bright region stands out?")
    mask = saved_mask(page)
    volume = nibabel.Nifti1Image.from_bytes(gzip.decompress(saved(page, "Mask (NIfTI)")))
    grid = np.asarray(volume.dataobj) > 0
    assert set(np.nonzero(grid)[2]) == {12} and grid.sum() == mask.sum()
    assert np.allclose(volume.affine, nibabel.Nifti1Image.from_bytes(gzip.decompress(data)).affine)
    slider.fill("20")
    elsewhere = page.get_by_text("The answer is about another slice.")
    elsewhere.wait_for()
    page.get_by_role("combobox", name="Plane").select_option("coronal")
    sync_api.expect(page.get_by_text("56 / 111")).to_be_visible()
    button(page, "Show it").click()
    sync_api.expect(page.get_by_text("12 / 35")).to_be_visible()
    elsewhere.wait_for(state="hidden")


def stored(server, data):
    body, kind = form({}, data, name="volume.nii.gz")
    return json.loads(server.request("POST", "/images", body, Content_Type=kind)[2])["image"]


def test_files_of_a_dicom_series_are_one_volume_and_its_segmentation_refers_to_the_slice(visit, tmp_path):
    pydicom, _ = pytest.importorskip("pydicom"), pytest.importorskip("highdicom")
    page, files = visit(), series(tmp_path)
    choose(page, *files)
    slider = page.get_by_role("slider", name="Slice")
    assert slider.get_attribute("max") == "5" and page.get_by_text("6 files").is_visible()
    slider.fill("4")
    ask(page)
    written = pydicom.dcmread(io.BytesIO(saved(page, "Mask (DICOM SEG)")))
    groups = [frame.DerivationImageSequence[0] for frame in written.PerFrameFunctionalGroupsSequence]
    referred = {group.SourceImageSequence[0].ReferencedSOPInstanceUID for group in groups}
    fifth = sorted((pydicom.dcmread(file) for file in files), key=lambda one: one.ImagePositionPatient[2])[4]
    assert referred == {fifth.SOPInstanceUID}
    frames, mask = written.pixel_array.reshape(-1, 64, 64) > 0, saved_mask(page)
    assert mask.any() and (frames.any(axis=0) == mask).all()


def test_a_film_is_shown_frame_by_frame_and_says_why_it_has_no_segmentation(visit, tmp_path):
    pytest.importorskip("pydicom")
    page = visit()
    choose(page, film(tmp_path / "film.dcm"))
    page.get_by_role("slider", name="Frame").fill("2")
    assert same(page, np.full((40, 50), 120, np.uint8))
    assert not page.get_by_role("combobox", name="Plane").is_visible()
    page.get_by_label("Point inside").check()
    page.locator("canvas").first.click()
    status(page, "Corrected.")
    assert button(page, "Mask (DICOM SEG)").is_disabled() and page.get_by_text("No DICOM SEG: ").is_visible()


def test_two_segmenters_draw_the_same_prompts_side_by_side_with_their_dice(visit, server, tmp_path):
    page, file = visit(), picture(tmp_path / "scan.png")
    choose(page, file)
    ask(page)
    page.get_by_label("With ellipse").check()
    caption = page.get_by_text("ellipse, Dice")
    caption.wait_for()
    first, other = (json.loads(saved(page, "JSON"))["regions"][0][key] for key in ("mask", "compared"))
    masks = [decoded(one["png"]) > 0 for one in (first, other["mask"])]
    dice = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
    assert 0.5 < dice < 1 and caption.inner_text() == f"ellipse, Dice {dice:.2f}"
    left, right = (page.locator(name).bounding_box() for name in ("#canvas", "#second-canvas"))
    assert left["x"] + left["width"] <= right["x"] and left["y"] == right["y"] and left["width"] == right["width"]
    page.get_by_label("With ellipse").uncheck()
    assert not caption.is_visible()


def test_a_box_that_is_dragged_replaces_the_mask_and_undo_brings_it_back(visit, tmp_path):
    page = visit()
    choose(page, picture(tmp_path / "scan.png"))
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
    button(page, "Undo").click()
    status(page, "Undone.")
    assert page.get_by_role("button", name="Region 1").inner_text() == before


def test_the_keyboard_alone_draws_a_region_without_a_question(visit, tmp_path):
    page = visit()
    choose(page, picture(tmp_path / "scan.png"))
    page.get_by_label("Point inside").check()
    canvas = page.get_by_role("application")
    canvas.focus()
    for key in ["Shift+ArrowRight"] * 4 + ["Shift+ArrowUp"] * 2 + ["ArrowUp"] * 4 + ["Enter"]:
        page.keyboard.press(key)
    status(page, "Corrected.")
    mask = saved_mask(page)
    y, x = np.mgrid[:240, :320]
    disc = (x - 200) ** 2 + (y - 96) ** 2 < 400
    assert (mask & disc).sum() / (mask | disc).sum() > 0.9


def test_text_appears_piece_by_piece_and_nothing_fits_is_an_answer_in_words(visit, tmp_path):
    page = visit()
    choose(page, picture(tmp_path / "scan.png"))
    pieces = [("text", {"text": "All "}), ("text", {"text": "is "}), ("text", {"text": "dark"})]
    answered(page, *pieces)
    button(page, "Ground").click()
    status(page, "The connection ended before the answer")
    assert page.locator("#reasoning").inner_text() == "All is dark"
    page.unroute_all()
    answered(page, *pieces, ("answer", {"regions": [], "fault": None, "cause": "", "think": "All dark.", "text": ""}))
    ask(page)
    assert page.get_by_text("Nothing in the image fits the question.").is_visible()
    assert page.get_by_role("button", name="Region").count() == 0
    assert page.locator("#reasoning").inner_text() == "All dark."


def test_several_regions_are_listed_with_their_confidence_and_one_is_chosen(visit, tmp_path):
    page = visit()
    choose(page, picture(tmp_path / "scan.png"))
    region = {"label": "", "points": [], "mask": None, "prompt_kinds": []}
    regions = [
        {**region, "box": [170, 66, 230, 126], "confidence": 0.91}, {**region, "box": [5, 6, 40, 50], "confidence": 0.2}
    ]  # fmt: skip
    answered(page, ("answer", {"regions": regions, "fault": None, "cause": "", "think": "", "text": ""}))
    ask(page)
    assert page.get_by_text("2 regions").is_visible()
    entries = page.get_by_role("button", name="Region")
    assert ["confidence 0.91" in entries.nth(0).inner_text(), "confidence 0.20" in entries.nth(1).inner_text()] == [
        True
    ] * 2
    entries.nth(1).click()
    assert [entries.nth(index).get_attribute("aria-pressed") for index in (0, 1)] == ["false", "true"]


def test_a_question_is_cancelled(visit, server, tmp_path):
    page = visit()
    noise = np.random.default_rng(0).integers(0, 255, (1400, 1400), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    choose(page, tmp_path / "noise.png")
    before = server.counter("medground_cancelled_total")
    button(page, "Ground").click()
    button(page, "Cancel").click()
    status(page, "Cancelled.")
    server.wait_for(lambda: server.counter("medground_cancelled_total") == before + 1)
    assert page.get_by_text("No answer yet.").is_visible() and button(page, "Ground").is_enabled()


def test_text_of_models_questions_and_file_names_is_never_run(visit, tmp_path):
    page = visit()
    for payload in PAYLOADS:
        region = {"label": payload, "box": [1, 1, 9, 9], "points": [], "confidence": 0.5, "mask": None}
        answer = {"regions": [{**region, "prompt_kinds": []}], "fault": None, "cause": "", "think": payload, "text": ""}
        page.unroute_all()
        answered(page, ("text", {"text": payload}), ("answer", answer))
        name = f"{payload.replace('/', '_')[:60]}.png"
        choose(page, picture(tmp_path / name))
        ask(page, payload)
        assert page.locator("#reasoning").inner_text() == payload and page.locator("#name").inner_text() == name
        assert page.get_by_role("button", name="Region 1").inner_text().count(payload) == 1
        answered(page, ("error", {"error": payload, "hint": payload, "status": 422}))
        button(page, "Ground").click()
        status(page, f"{payload}: {payload}")
    assert page.title() == "medground"
    assert page.locator("main script, main iframe, main style, main svg, main a, section img").count() == 0


def test_a_file_that_is_no_image_is_refused_in_a_sentence(tmp_path, server, browser):
    (tmp_path / "notes.txt").write_text("no image")
    page = browser.new_page()  # the refusal itself is an error on the browser's console
    page.goto(server.address)
    page.get_by_label("Image", exact=True).set_input_files(tmp_path / "notes.txt")
    page.locator("#status.bad").wait_for()
    assert "image" in page.get_by_role("status").inner_text()
    assert button(page, "Ground").is_disabled()
    page.close()


def test_without_the_token_the_page_says_what_to_do(browser, server):
    page = browser.new_page()
    page.goto(server.url)
    status(page, "open the address that the server printed")
    page.close()
