"""sam_hq equals transformers called directly, encodes once, and refuses folders that are not its own."""

import pickle

import numpy as np
import pytest
import torch
from medground_sam import SamHQ
from PIL import Image as PIL
from tiny_folders import at_odd_sizes, digest, load_shared, odd_images, prompts, reconfigured, reweighted, save_filled

from medground.errors import InputError
from medground.testing import check_segmenter

SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import SamHQConfig, SamHQModel

    config = SamHQConfig(
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 16,
            "window_size": 2,
            "global_attn_indexes": [1, 2],
            "num_pos_feats": 8,
            "mlp_dim": 64,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
            "vit_dim": 32,
        },
    )
    return save_filled(SamHQModel(config), tmp_path_factory.mktemp("hq") / "folder")


@pytest.mark.slow
@at_odd_sizes
@pytest.mark.parametrize("multimask", [False, True])
def test_logits_equal_transformers_called_directly_on_odd_images(folder, multimask, sizes):
    from transformers import SamHQModel, SamHQProcessor, SamImageProcessor

    images = SamImageProcessor(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})
    processor, model = SamHQProcessor(images), SamHQModel.from_pretrained(folder).eval()
    processor.target_size = SIDE
    segmenter, largest = load_shared(SamHQ, checkpoint=str(folder), multimask=multimask), 0.0
    for image in odd_images(sizes)[1:]:  # transformers' processor makes a height of 0 of the strip
        prepared = torch.from_numpy(np.stack([_pixels(segmenter, image)]))
        for prompt, (logits, score) in zip(prompts(image), segmenter.logits(image, prompts(image)), strict=True):
            numbers = {}
            if prompt.box is not None:
                numbers["input_boxes"] = [[list(prompt.box)]]
            if prompt.points:
                numbers |= {
                    "input_points": [[[list(point) for point in prompt.points]]],
                    "input_labels": [[list(prompt.labels)]],
                }
            inputs = processor(images=PIL.fromarray(image), return_tensors="pt", **numbers)
            sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
            # transformers' processor resizes with another filter than the authors; the difference is the filter's.
            assert (inputs["pixel_values"] - prepared).abs().mean() < 0.05
            inputs["pixel_values"] = prepared
            with torch.inference_mode():
                output = model(multimask_output=multimask, **_singles(inputs))
            best = int(output.iou_scores[0, 0].argmax())
            masks = images.post_process_masks(
                output.pred_masks, *sizes, binarize=False, pad_size={"height": SIDE, "width": SIDE}
            )[0][0]
            expected = masks[best].numpy()
            assert np.abs(expected).max() > 0.05, "the random model answers something"
            difference = np.abs(logits - expected).max() / max(1.0, np.abs(expected).max())
            largest = max(largest, difference, abs(score - float(output.iou_scores[0, 0, best])))
    print(f"sam_hq, multimask {multimask}: largest difference {largest:.1e}")
    assert largest <= 1e-6


def _pixels(segmenter, image):
    from medground_sam.contract import prepare

    return prepare(segmenter.codec.contract, image, SIDE)


def _singles(inputs):
    """Return numbers of prompts in float32, where the processor gives float64."""
    return {key: value.float() if value.dtype == torch.float64 else value for key, value in inputs.items()}


def test_boxes_and_points_share_one_encoding(folder):
    segmenter, encoded = load_shared(SamHQ, checkpoint=str(folder)), []
    segmenter.codec.network.encoder.register_forward_pre_hook(lambda *given: encoded.append(1))
    image = odd_images()[2]
    segmenter.segment(image, prompts(image))
    segmenter.segment(image.copy(), prompts(image)[:1])
    assert len(encoded) == 1
    assert (segmenter.stats.hits, segmenter.stats.misses) == (1, 1)


def test_masks_of_several_images_do_not_depend_on_the_batch(folder):
    segmenter = load_shared(SamHQ, checkpoint=str(folder))
    images = odd_images()
    together = segmenter.segment_batch(images, [prompts(image) for image in images])
    for image, masks in zip(images, together, strict=True):
        for mask, alone in zip(masks, segmenter.segment(image, prompts(image)), strict=True):
            assert np.mean(mask.data != alone.data) < 1e-3
            assert mask.score == pytest.approx(alone.score, abs=1e-6)


@pytest.mark.slow
def test_the_high_quality_mask_is_part_of_the_answer(folder, tmp_path):
    """Other weights of the high-quality token alone give other logits."""

    def other(tensors):
        return {k: t + 1 if "hq_mask_mlp.proj_out.bias" in k else t for k, t in tensors.items()}

    changed = reweighted(folder, tmp_path / "changed", other)
    image = odd_images()[2]
    first, second = (
        SamHQ(checkpoint=str(path), device="cpu").logits(image, prompts(image)[:1])[0][0] for path in (folder, changed)
    )
    assert np.abs(first - second).max() > 1e-3


def test_the_weights_do_not_change_and_a_copy_answers_the_same(folder):
    segmenter, image = load_shared(SamHQ, checkpoint=str(folder)), odd_images()[1]
    module = segmenter.codec.network.module
    before, first = digest(module), segmenter.segment(image, prompts(image))
    copy = pickle.loads(pickle.dumps(segmenter))
    assert digest(module) == before == digest(copy.codec.network.module)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    for mine, its in zip(first, copy.segment(image, prompts(image)), strict=True):
        np.testing.assert_array_equal(mine.data, its.data)


@pytest.mark.slow
def test_it_passes_the_conformance_kit(folder):
    check_segmenter(SamHQ, checkpoint=str(folder), device="cpu")


@pytest.mark.parametrize(
    ("change", "stated"),
    [
        (lambda w: {k: t for k, t in w.items() if "hq_token" not in k}, "1 missing: mask_decoder.hq_token.weight"),
        (lambda w: w | {"adapter.up": torch.ones(2)}, "1 unexpected: adapter.up"),
        (lambda w: {k: torch.ones(3) if "hq_token" in k else t for k, t in w.items()}, "1 of another shape"),
        (lambda w: {k: t * float("nan") if "hq_token" in k else t for k, t in w.items()}, "NaN or infinity in 1"),
    ],
    ids=["missing", "extra", "shape", "NaN"],
)
def test_tensors_that_do_not_fit_are_named_in_one_sentence(folder, tmp_path, change, stated):
    with pytest.raises(InputError, match=stated):
        SamHQ(checkpoint=str(reweighted(folder, tmp_path / "changed", change)), device="cpu")


def test_a_folder_of_another_model_is_refused(folder, tmp_path):
    other = reconfigured(folder, tmp_path / "other", lambda settings: settings.update(model_type="sam"))
    with pytest.raises(InputError, match="is a model of sam, not of sam_hq"):
        SamHQ(checkpoint=str(other), device="cpu")
