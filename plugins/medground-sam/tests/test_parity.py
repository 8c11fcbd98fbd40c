"""Both backends equal the authors' predictors at odd image sizes."""

import json

import numpy as np
import pytest
import torch
from medground_sam import MedSam, Sam, SamMed2D
from scipy import ndimage
from torch.nn import functional as F

from medground.geometry import Box, Point
from medground.types import SpatialPrompt

BACKENDS = ("transformers", "official")


def by_predictor(model, image, prompts):
    """Return logits and score of the mask with the best predicted IoU, by segment-anything's predictor."""
    from segment_anything import SamPredictor

    predictor = SamPredictor(model)
    predictor.set_image(np.ascontiguousarray(image))
    for prompt in prompts:
        masks, scores, _ = predictor.predict(
            point_coords=np.array(prompt.points) if prompt.points else None,
            point_labels=np.array(prompt.labels) if prompt.points else None,
            box=None if prompt.box is None else np.array(prompt.box),
            return_logits=True,
        )
        yield masks[scores.argmax()], scores.max()


def assert_same(result, expected, tolerance=1e-4):
    for (values, score), (other, other_score) in zip(result, expected, strict=True):
        assert values.shape == other.shape
        np.testing.assert_allclose(values, other, atol=tolerance, rtol=0)
        assert score == pytest.approx(float(other_score), abs=tolerance)


@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
@pytest.mark.parametrize("component", [Sam, MedSam])
def test_sam_and_medsam_as_released_equal_the_predictor(
    component, reference, sam_file, size, grey, make_picture, make_prompts
):
    image, prompts = make_picture(size, grey=grey), make_prompts(size)
    expected = list(by_predictor(reference, image, prompts))
    assert max(values.std() for values, _ in expected) > 0.05  # the maps say something
    for backend in BACKENDS if component is Sam else BACKENDS[:1]:
        segmenter = component(checkpoint=sam_file, backend=backend, protocol="medreasoner")
        assert_same(segmenter.logits(image, prompts), expected)
        for mask, (values, _) in zip(segmenter.segment(image, prompts), expected, strict=True):
            sure = np.abs(values) > 1e-4
            assert (mask.data == (values > 0))[sure].all() and mask.data.dtype == bool


def by_medsam(model, image, boxes):
    """Follow MedSAM's inference script: square cubic resize, min-max, one mask, sigmoid, upsampling."""
    height, width = image.shape[:2]
    side = model.image_encoder.img_size
    factors = np.array(image.shape) / (side, side, 3)
    smooth = ndimage.gaussian_filter(image.astype(float), np.maximum(0, (factors - 1) / 2), mode="mirror")
    zoomed = ndimage.zoom(smooth, 1 / factors, order=3, mode="mirror", grid_mode=True)
    resized = np.clip(zoomed, image.min(), image.max()).astype(np.uint8)
    scaled = (resized - resized.min()) / np.clip(resized.max() - resized.min(), a_min=1e-8, a_max=None)
    with torch.no_grad():
        embedding = model.image_encoder(torch.tensor(scaled).float().permute(2, 0, 1)[None])
        for box in boxes:
            corners = np.array([box]) / np.array([width, height, width, height]) * side
            sparse, dense = model.prompt_encoder(None, torch.as_tensor(corners, dtype=torch.float)[:, None], None)
            low, score = model.mask_decoder(embedding, model.prompt_encoder.get_dense_pe(), sparse, dense, False)
            full = F.interpolate(torch.sigmoid(low), (height, width), mode="bilinear", align_corners=False)
            yield full[0, 0].numpy(), float(score)


@pytest.mark.slow
@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
def test_medsam_equals_its_inference_script(reference, sam_file, size, grey, make_picture):
    image, (height, width) = make_picture(size, grey=grey), size
    boxes = [Box(width * 0.2, height * 0.3, width * 0.6, height * 0.71), Box(0, 0, width, height)]
    expected = list(by_medsam(reference, image, boxes))
    for backend in BACKENDS if size == (37, 512) else BACKENDS[:1]:
        segmenter = MedSam(checkpoint=sam_file, backend=backend)
        result = segmenter.logits(image, [SpatialPrompt(box=box) for box in boxes])
        assert_same(result, expected)
        assert segmenter.segment(image, [SpatialPrompt(box=boxes[0])])[0].data.sum() == (result[0][0] > 0.5).sum()


@pytest.mark.parametrize("protocol", ["native", "medreasoner"])
def test_sammed2d_backends_agree(med2d_file, size, protocol, make_picture, make_prompts):
    image, prompts = make_picture(size), make_prompts(size)
    first, second = (SamMed2D(checkpoint=med2d_file, backend=backend, protocol=protocol) for backend in BACKENDS)
    assert_same(first.logits(image, prompts), second.logits(image, prompts))


@pytest.mark.slow
def test_sammed2d_sees_bgr_unless_asked_for_the_released_protocol(med2d_file, make_picture, make_prompts):
    native, released = (SamMed2D(checkpoint=med2d_file, protocol=name) for name in ("native", "medreasoner"))
    colour, grey = make_picture((50, 70)), make_picture((50, 70), grey=True)
    prompts = make_prompts((50, 70))
    assert_same(native.logits(colour, prompts), released.logits(colour[..., ::-1], prompts), 0)
    assert_same(native.logits(grey, prompts), released.logits(grey, prompts), 0)
    assert not np.allclose(native.logits(colour, prompts)[0][0], released.logits(colour, prompts)[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_sammed2d_equals_its_predictor(shared, backend):
    folder = shared / "oracle" / "sammed2d"
    arrays, cases = np.load(folder / "cases.npz"), json.loads((folder / "cases.json").read_text())
    segmenter = SamMed2D(checkpoint=str(folder / "sam-med2d_tiny.pth"), backend=backend, protocol="medreasoner")
    for number, case in enumerate(cases):
        image = arrays[f"image_{case['image']}"]
        box = Box(*case["box"]) if case["box"] else None
        prompt = SpatialPrompt(box=box, points=tuple(Point(*xy) for xy in case["points"] or ()))
        [(values, score)], [mask] = segmenter.logits(image, [prompt]), segmenter.segment(image, [prompt])
        bits = np.unpackbits(arrays[f"mask_{number}"])[: values.size].reshape(values.shape).astype(bool)
        assert score == pytest.approx(case["score"], abs=1e-5)
        assert (mask.data == bits).mean() >= 0.999
        assert (mask.data == bits)[np.abs(values) > 1e-5].all()
        if f"logits_{number}" in arrays:
            np.testing.assert_allclose(values, arrays[f"logits_{number}"], atol=1e-5, rtol=0)
