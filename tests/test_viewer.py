"""A volume inside a page: every voxel that is shown lies where the page's script reads it, and the page is used by keyboard."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from medground_toy import volumes
from PIL import Image as Pillow

from medground.images.read_volume import read_volume
from medground.images.volume import Volume
from medground.report import render
from medground.report import viewer as module
from medground.report.viewer import viewer

pytest.importorskip("nibabel", reason="needs nibabel")
TURNED = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@pytest.fixture(scope="module")
def phantom():
    return volumes.volume_phantom(0, shape=(40, 30, 20), spacing=(1.2, 1.2, 2.5), targets=2, rotation=TURNED)


@pytest.fixture
def volume(phantom, tmp_path):
    volumes.write_nifti(phantom, tmp_path / "v.nii.gz")
    return read_volume(tmp_path / "v.nii.gz")


def picture(address: str) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("L"))


def voxels(sheet: np.ndarray, geometry: dict) -> np.ndarray:
    """The voxels ``[i, j, k]`` as the page's script reads them."""
    width, height, depth = geometry["sides"]
    cut = [divmod(k, geometry["columns"]) for k in range(depth)]
    return np.stack([sheet[r * height : (r + 1) * height, c * width : (c + 1) * width].T for r, c in cut], axis=2)


def test_every_voxel_lies_where_the_script_reads_it(volume, phantom):
    shown = viewer(volume, phantom.labels, ["a", "b"], start=(3, 4, 5), window="40,400")
    geometry = json.loads(shown.geometry)
    assert np.array_equal(voxels(picture(shown.labels), geometry), phantom.labels)
    grey = np.stack([volume.voxels.grey(2, k, "40,400")[0] for k in range(20)], axis=2).astype(int)
    assert np.abs(voxels(picture(shown.grey), geometry) - grey).mean() < 4, "but for the loss of the picture's coding"
    assert geometry["first"] == [3, 4, 5] and geometry["spacing"] == pytest.approx([1.2, 1.2, 2.5])
    assert [name for _, name in shown.legend] == ["a", "b"] and shown.reduced == ""
    first = {plane: (count, index) for plane, count, index in shown.planes}
    for plane, (count, index) in first.items():
        axis = volume.placement(plane, 0).axis
        assert (count, index) == (volume.shape[axis], (3, 4, 5)[axis])


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_planes_lie_as_slices_are_shown(volume, phantom, plane):
    shown = viewer(volume, phantom.labels)
    geometry = json.loads(shown.geometry)
    how = geometry["planes"][plane]
    values = voxels(picture(shown.labels), geometry)
    out = np.moveaxis(values, (how["axis"], how["rows"], how["columns"]), (0, 1, 2))[4]
    out = out[:: -1 if how["flipRows"] else 1, :: -1 if how["flipColumns"] else 1]
    placement = volume.placement(plane, 4)
    assert np.array_equal(out, placement.picture(np.take(phantom.labels, 4, placement.axis)))


def test_a_long_axis_is_shown_in_steps_and_small_labels_stay(volume, monkeypatch):
    monkeypatch.setattr(module, "SIDE", 15)
    labels = np.zeros(volume.shape, np.uint8)
    labels[37, 29, 19] = 2
    shown = viewer(volume, labels)
    geometry = json.loads(shown.geometry)
    assert geometry["steps"] == [3, 2, 2] and geometry["sides"] == [14, 15, 10]
    assert geometry["spacing"] == pytest.approx([3.6, 2.4, 5.0])
    assert np.argwhere(voxels(picture(shown.labels), geometry)).tolist() == [[12, 14, 9]]
    assert shown.reduced == "14 x 15 x 10 of 40 x 30 x 20 voxels are shown"


def test_labels_of_another_shape_are_refused(volume):
    with pytest.raises(ValueError, match="do not fit"):
        viewer(volume, np.zeros((2, 2, 2), np.uint8))


def page(volume: Volume, labels: np.ndarray, title: str = "Which spot?") -> str:
    middle = tuple(np.argwhere(labels == 1).mean(axis=0).astype(int).tolist())
    return render(
        "volume.html", title=title, causes=(), note="", viewer=viewer(volume, labels, ["<b>one</b>", "two"], start=middle),
        measures=[], rule="", exchanges=[], card=[["mask", "mask.nii.gz"]],
    )  # fmt: skip


def test_the_page_loads_nothing_and_escapes_names(volume, phantom):
    html = page(volume, phantom.labels, "<script>alert(1)</script>")
    assert "<b>one" not in html and "<script>alert" not in html
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html) and "default-src 'none'" in html
    assert html.count("<script>") == 1 and html.count("<style>") == 1


@pytest.mark.slow
def test_the_page_works_by_keyboard_and_mouse(volume, phantom, tmp_path):
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = Path("/usr/bin/chromium")
    if not chromium.is_file():
        pytest.skip("needs chromium")
    (tmp_path / "page.html").write_text(page(volume, phantom.labels))
    with sync.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 400, "height": 900})
        messages: list[str] = []
        tab.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.goto((tmp_path / "page.html").as_uri())
        status, axial = tab.locator(".status"), tab.locator("[data-plane=axial]")
        sync.expect(status).to_contain_text("voxel")
        before = int(axial.locator("output").inner_text())
        blue = "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;" \
            " for (let i = 0; i < d.length; i += 4) n += d[i + 2] > d[i] + 40; return n; }"  # fmt: skip
        canvas = axial.locator("canvas")
        assert canvas.evaluate(blue) > 100, "the mask is drawn"
        tab.keyboard.press("m")
        assert canvas.evaluate(blue) == 0, "and hidden by its key"
        tab.keyboard.press("m")
        canvas.focus()
        tab.keyboard.press("ArrowUp")
        assert int(axial.locator("output").inner_text()) == before + 1
        tab.keyboard.press("Home")
        assert axial.locator("output").inner_text() == "0" and axial.locator("input").input_value() == "0"
        tab.keyboard.press("PageUp")
        assert axial.locator("output").inner_text() == "10"
        canvas.hover()
        tab.mouse.wheel(0, 100)
        sync.expect(axial.locator("output")).to_have_text("11")
        sagittal = tab.locator("[data-plane=sagittal] output").inner_text()
        canvas.click(position={"x": 5, "y": 5})
        assert tab.locator("[data-plane=sagittal] output").inner_text() != sagittal
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a phone needs no sideways scrolling"
        assert messages == []
        browser.close()
