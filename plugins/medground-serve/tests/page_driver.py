"""A person at the page: finds controls by role and name, waits for what the status line says, reads what is drawn."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image


def choose(page, *files):
    page.get_by_label("Image", exact=True).set_input_files(files)
    status(page, "Ask about the image.")


def status(page, text):
    page.get_by_role("status").get_by_text(text).wait_for(timeout=60_000)


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def ask(page, question="Which bright spot is new?"):
    page.get_by_role("textbox", name="Question").fill(question)
    button(page, "Ground").click()
    status(page, "Done.")


def example(page, name):
    button(page, name).click()
    status(page, "Ask about the image.")


def findings(page):
    """What axe finds, in both schemes."""
    out = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        results = page.evaluate("axe.run(document, {resultTypes: ['violations', 'incomplete']})")
        out += [(scheme, one["id"], one["impact"]) for kind in ("violations", "incomplete") for one in results[kind]]
    return out


def saved(page, name):
    with page.expect_download() as download:
        button(page, name).click()
    return Path(download.value.path()).read_bytes()


def saved_mask(page):
    return np.asarray(Image.open(io.BytesIO(saved(page, "Mask (PNG)"))).convert("L")) > 0


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def answered(page, *events):
    """Let the server answer with these events, instead of its models."""
    body = "".join(f"event: {name}\ndata: {json.dumps(value)}\n\n" for name, value in events)
    page.route("**/ground", lambda route: route.fulfill(content_type="text/event-stream", body=body))


READ = """([width, height]) => {
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingEnabled = false;
  pen.drawImage(document.getElementById("canvas"), 0, 0, width, height);
  return Array.from(pen.getImageData(0, 0, width, height).data).filter((value, index) => index % 4 === 0);
}"""


def same(page, expected):
    """Whether the picture becomes the expected one, grey, within so many looks."""
    height, width = expected.shape
    looks = (np.array(page.evaluate(READ, [width, height])).reshape(height, width) for _ in range(200))
    return any(np.abs(pixels - expected).max() <= 1 for pixels in looks)


def spot(page, x, y):
    """Return where on the screen a pixel of the 320 x 240 picture is."""
    canvas = page.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    scale = min(box["width"] / 320, box["height"] / 240)
    left, top = box["x"] + (box["width"] - 320 * scale) / 2, box["y"] + (box["height"] - 240 * scale) / 2
    return left + x * scale, top + y * scale
