"""Images are encoded once, prompts decoded together, and masks do not depend on the batch."""

import numpy as np
import pytest
import torch
from medground_sam2 import MedSam2, Sam2

from medground.errors import SegmenterError, SegmenterMemoryError
from medground.registry import factory
from medground.testing import check_segmenter
from medground.types import SpatialPrompt

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, size, dtype=np.uint8) for size in ((70, 90, 3), (31, 200, 3), (70, 90, 3))]
BOXES = [SpatialPrompt(box=(x, 5, x + 30, 28)) for x in range(0, 40, 10)]
POINTS = [SpatialPrompt(points=((x, 8), (x + 9, 20)), labels=(1, 0)) for x in range(4)]
BOTH = [SpatialPrompt(box=(x, 5, x + 30, 28), points=((x + 5, 8), (x + 9, 20))) for x in range(4)]
MIXED = [prompt for three in zip(BOXES, POINTS, BOTH, strict=True) for prompt in three]


class Counted:
    """Count the calls and rows of a segmenter's encoder and decoder."""

    def __init__(self, segmenter: Sam2) -> None:
        self.encoded: list[int] = []
        self.decoded: list[int] = []
        model = segmenter.network.model
        decoder = model.mask_decoder if hasattr(model, "mask_decoder") else model.sam_mask_decoder
        encoder = model.vision_encoder if hasattr(model, "vision_encoder") else model.image_encoder
        encoder.register_forward_pre_hook(lambda module, inputs: self.encoded.append(len(inputs[0])))
        decoder.register_forward_hook(lambda module, inputs, result: self.decoded.append(result[0][..., 0, 0].numel()))


@pytest.fixture(params=["transformers", "official"])
def segmenter(request, faint) -> Sam2:
    return Sam2(checkpoint=str(faint), backend=request.param, image_size=256, multimask=False)


@pytest.mark.slow
def test_a_group_is_one_encoding_and_one_decoding_per_kind(segmenter):
    counted = Counted(segmenter)
    segmenter.segment(IMAGES[0], MIXED)
    assert (counted.encoded, counted.decoded) == ([1], [4, 4, 4])
    segmenter.segment(IMAGES[0].copy(), BOXES)
    assert counted.encoded == [1], "an image seen before is not encoded again"
    assert (segmenter.stats.hits, segmenter.stats.misses) == (1, 1)


@pytest.mark.slow
def test_many_images_are_decoded_together(segmenter):
    counted = Counted(segmenter)
    segmenter.segment_batch([*IMAGES, IMAGES[0]], [MIXED, BOXES, [], MIXED])
    assert counted.encoded == [1, 1], "an image without prompts is not encoded, and one that comes twice only once"
    assert counted.decoded == [12, 8, 8]


@pytest.mark.slow
def test_images_are_encoded_as_many_at_once_as_allowed(faint):
    segmenter = Sam2(checkpoint=str(faint), image_size=256, encode_batch=2)
    counted = Counted(segmenter)
    segmenter.segment_batch(IMAGES, [BOXES] * 3)
    assert counted.encoded == [2, 1]


@pytest.mark.slow
def test_masks_do_not_depend_on_other_prompts_or_their_order(segmenter):
    batches = segmenter.segment_batch(IMAGES, [MIXED, BOXES, list(reversed(MIXED))])
    for image, requests, together in zip(IMAGES, [MIXED, BOXES, list(reversed(MIXED))], batches, strict=True):
        for prompt, mask in zip(requests, together, strict=True):
            segmenter.cache = type(segmenter.cache)(0)
            (values, score), *_ = segmenter.logits(image, [prompt])
            sure = np.abs(values) > 1e-6
            assert np.array_equal((values > 0)[sure], mask.data[sure])
            assert mask.score == pytest.approx(score, abs=1e-6)


@pytest.mark.slow
def test_prompts_are_decoded_in_chunks(faint):
    whole = Sam2(checkpoint=str(faint), image_size=256)
    parts = Sam2(checkpoint=str(faint), image_size=256, decode_batch=3)
    counted = Counted(parts)
    result = parts.logits(IMAGES[0], BOXES)
    assert counted.decoded == [3, 1]
    for (mine, _), (theirs, _) in zip(result, whole.logits(IMAGES[0], BOXES), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def run_out_above(segmenter: Sam2, rows: int) -> None:
    def limit(module, inputs, named):
        stored = named["sparse_prompt_embeddings"].numel() // named["sparse_prompt_embeddings"].shape[-1] // 3
        if stored > rows:
            raise torch.OutOfMemoryError("out of memory")

    segmenter.network.model.mask_decoder.register_forward_pre_hook(limit, with_kwargs=True)


def test_out_of_memory_halves_the_chunk_and_goes_on(faint):
    segmenter = Sam2(checkpoint=str(faint), image_size=256)
    expected = segmenter.segment(IMAGES[0], BOXES)
    run_out_above(segmenter, rows=2)
    for mask, other in zip(segmenter.segment(IMAGES[0], BOXES), expected, strict=True):
        assert np.mean(mask.data != other.data) < 1e-3


def test_out_of_memory_for_a_single_prompt_is_an_error_with_a_cause(faint):
    segmenter = Sam2(checkpoint=str(faint), image_size=256)
    run_out_above(segmenter, rows=0)
    with pytest.raises(SegmenterMemoryError, match="ran out of memory on a single item"):
        segmenter.segment(IMAGES[0], BOXES)


def test_numbers_that_are_not_finite_are_an_error(faint, tmp_path):
    state = torch.load(faint, weights_only=True)["model"]
    state["no_mem_embed"].fill_(3e38)  # the sums overflow
    torch.save({"model": state}, tmp_path / "broken.pt")
    segmenter = Sam2(checkpoint=str(tmp_path / "broken.pt"), image_size=256)
    with pytest.raises(SegmenterError, match="not finite"):
        segmenter.segment(IMAGES[0], BOXES)


@pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3))])
def test_an_image_that_is_not_rgb_uint8_is_refused(image, faint):
    with pytest.raises(SegmenterError, match="H x W x 3 uint8"):
        Sam2(checkpoint=str(faint), image_size=256).segment(image, BOXES)


def test_parameters_are_frozen_and_never_change(segmenter, hash_of):
    before = hash_of(segmenter.network.model)
    with torch.enable_grad():
        masks = segmenter.segment(IMAGES[0], MIXED)
    assert len(masks) == len(MIXED)
    assert hash_of(segmenter.network.model) == before
    assert not any(parameter.requires_grad for parameter in segmenter.network.model.parameters())
    assert not segmenter.network.model.training


def test_masks_depend_on_image_and_prompt(segmenter):
    """Another image or another box gives other numbers, also with random weights."""
    (here, _), (there, _) = segmenter.logits(IMAGES[0], [BOXES[0], BOXES[-1]])
    other = segmenter.logits(IMAGES[2], [BOXES[0]])[0][0]
    assert np.abs(here - there).max() > 1e-3
    assert np.abs(here - other).max() > 1e-3


@pytest.mark.slow
def test_half_precision_masks_are_close_to_full_precision(segmenter, faint):
    half = Sam2(
        checkpoint=str(faint),
        backend=segmenter._arguments["backend"],
        image_size=256,
        multimask=False,
        dtype="bfloat16",
    )
    assert half.network.encode(torch.zeros(1, 3, 256, 256))[0].dtype == torch.bfloat16
    for (mine, _), (exact, _) in zip(half.logits(IMAGES[0], BOXES), segmenter.logits(IMAGES[0], BOXES), strict=True):
        assert np.abs(mine - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_compiled_encoder_gives_the_same_masks(faint):
    compiled = Sam2(checkpoint=str(faint), image_size=256, compile=True)
    plain = Sam2(checkpoint=str(faint), image_size=256)
    for (mine, _), (exact, _) in zip(compiled.logits(IMAGES[0], BOXES), plain.logits(IMAGES[0], BOXES), strict=True):
        np.testing.assert_allclose(mine, exact, atol=1e-4)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_masks(faint):
    there = Sam2(checkpoint=str(faint), image_size=256, device="cuda")
    here = Sam2(checkpoint=str(faint), image_size=256)
    for (mine, _), (exact, _) in zip(there.logits(IMAGES[0], MIXED), here.logits(IMAGES[0], MIXED), strict=True):
        np.testing.assert_allclose(mine, exact, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "component"), [("sam2", Sam2), ("medsam2", MedSam2)])
def test_registered_segmenters_pass_the_conformance_kit(name, component, faint):
    assert factory("segmenter", name) is component
    check_segmenter(component, checkpoint=str(faint), image_size=128)
