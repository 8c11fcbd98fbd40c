"""sam3_tracker and edgetam equal transformers called directly, encode once, and refuse folders that are not theirs."""

import pickle

import numpy as np
import pytest
import tiny_sam3
import torch
from medground_sam2 import EdgeTam, Sam3Tracker
from medground_sam2.layout import TWINS
from PIL import Image as PIL
from tiny_folders import at_odd_sizes, digest, load_shared, odd_images, prompts, reconfigured, reweighted, save_filled
from tiny_followers import REPVIT

from medground.errors import InputError, SegmenterError
from medground.testing import check_segmenter
from medground.types import SpatialPrompt

pytest.importorskip("timm")
pytest.importorskip("torchvision")

COMPONENTS = {"sam3_tracker": Sam3Tracker, "edgetam": EdgeTam}


def save_edgetam(folder):
    from transformers import EdgeTamConfig, EdgeTamModel, TimmWrapperConfig

    config = EdgeTamConfig(
        vision_config={
            "backbone_config": TimmWrapperConfig(**REPVIT),
            "backbone_channel_list": [32, 24, 16, 8],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    return save_filled(EdgeTamModel(config), folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("folders")
    return {"sam3_tracker": tiny_sam3.save_tracker(base / "tracker"), "edgetam": save_edgetam(base / "edgetam")}


@pytest.fixture(params=list(COMPONENTS))
def name(request):
    return request.param


@pytest.fixture
def segmenter(name, folders):
    return load_shared(COMPONENTS[name], checkpoint=str(folders[name]))


def processor_and_model(name, folder):
    """Return transformers' own processor and model for a folder."""
    from transformers import EdgeTamModel, Sam2Processor, Sam3TrackerModel, Sam3TrackerProcessor
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor
    from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

    if name == "edgetam":
        side = {"height": 128, "width": 128}
        return Sam2Processor(Sam2ImageProcessor(size=side), target_size=128), EdgeTamModel.from_pretrained(folder)
    side = {"height": tiny_sam3.SIDE, "width": tiny_sam3.SIDE}
    images = Sam3ImageProcessor(size=side)
    return Sam3TrackerProcessor(images, target_size=tiny_sam3.SIDE), Sam3TrackerModel.from_pretrained(folder)


def pixels_of(name, processor, image):
    if name == "edgetam":  # its authors resize floats, transformers' processor whole numbers
        from sam2.utils.transforms import SAM2Transforms

        return SAM2Transforms(resolution=128, mask_threshold=0.0)(image)[None]
    return processor(images=PIL.fromarray(image), return_tensors="pt")["pixel_values"]


def direct(name, processor, model, image, prompt) -> tuple[np.ndarray, float]:
    """Return the best mask of transformers, as logits at the image's size, and its score."""
    numbers = {}
    if prompt.box is not None:
        numbers["input_boxes"] = [[list(prompt.box)]]
    if prompt.points:
        numbers |= {"input_points": [[[list(p) for p in prompt.points]]], "input_labels": [[list(prompt.labels)]]}
    size = torch.tensor([image.shape[:2]])
    inputs = processor(original_sizes=size, return_tensors="pt", **numbers)
    inputs.pop("original_sizes")
    one_click = prompt.box is None and len(prompt.points) == 1
    with torch.inference_mode():
        output = model(pixel_values=pixels_of(name, processor, image), multimask_output=one_click, **inputs)
    masks = processor.post_process_masks(output.pred_masks, size, binarize=False)[0][0]
    best = int(output.iou_scores[0, 0].argmax())
    return masks[best].numpy(), float(output.iou_scores[0, 0, best])


@pytest.mark.slow
@at_odd_sizes
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_logits_equal_transformers_called_directly_on_odd_images(name, folders, segmenter, sizes):
    if name == "edgetam":
        pytest.importorskip("sam2")
    processor, model = processor_and_model(name, folders[name])
    largest = 0.0
    for image in odd_images(sizes):
        for prompt, (logits, score) in zip(prompts(image), segmenter.logits(image, prompts(image)), strict=True):
            expected, best = direct(name, processor, model.eval(), image, prompt)
            scale = max(1.0, np.abs(expected).max())
            assert np.abs(expected).max() > 0.05, "the random model answers something"
            largest = max(largest, np.abs(logits - expected).max() / scale, abs(score - best))
    print(f"{name}: largest difference {largest:.1e}")
    assert largest <= 1e-6


@pytest.mark.slow
def test_boxes_and_points_share_one_encoding(segmenter):
    encoded = []
    segmenter.network.model.vision_encoder.register_forward_pre_hook(lambda *given: encoded.append(1))
    image = odd_images()[2]
    segmenter.segment(image, prompts(image))
    segmenter.segment(image.copy(), prompts(image)[:1])
    assert len(encoded) == 1
    assert (segmenter.stats.hits, segmenter.stats.misses) == (1, 1)


@pytest.mark.slow
def test_the_weights_do_not_change_and_a_copy_answers_the_same(segmenter):
    image = odd_images()[1]
    before = digest(segmenter.network.model)
    first = segmenter.segment(image, prompts(image))
    copy = pickle.loads(pickle.dumps(segmenter))
    assert digest(segmenter.network.model) == before == digest(copy.network.model)
    assert not any(parameter.requires_grad for parameter in segmenter.network.model.parameters())
    for mine, its in zip(first, copy.segment(image, prompts(image)), strict=True):
        np.testing.assert_array_equal(mine.data, its.data)


@pytest.mark.slow
def test_it_passes_the_conformance_kit(name, folders):
    check_segmenter(COMPONENTS[name], checkpoint=str(folders[name]), device="cpu")


@pytest.mark.parametrize(
    ("change", "stated"),
    [
        (lambda w: {k: t for k, t in w.items() if "iou_token" not in k}, "1 missing: mask_decoder.iou_token.weight"),
        (lambda w: w | {"adapter.up": torch.ones(2)}, "1 unexpected: adapter.up"),
        (lambda w: {k: torch.ones(3) if "no_mask" in k else t for k, t in w.items()}, "1 of another shape"),
        (lambda w: {k: t * float("nan") if "no_mask" in k else t for k, t in w.items()}, "NaN or infinity in 1"),
    ],
    ids=["missing", "extra", "shape", "NaN"],
)
def test_tensors_that_do_not_fit_are_named_in_one_sentence(name, folders, tmp_path, change, stated):
    folder = reweighted(folders[name], tmp_path / "changed", change)
    with pytest.raises(InputError, match=stated):
        COMPONENTS[name](checkpoint=str(folder), device="cpu")


@pytest.mark.slow
def test_one_of_the_two_names_of_the_table_of_positions_may_be_left_out(name, folders, tmp_path):
    one, other = TWINS if name == "edgetam" else (f"tracker_model.{twin}" for twin in TWINS)
    both = reweighted(folders[name], tmp_path / "both", lambda w: w | {other: w[one].clone()})
    single = reweighted(both, tmp_path / "single", lambda w: {k: t for k, t in w.items() if k != other})
    models = [COMPONENTS[name](checkpoint=str(path), device="cpu").network.model for path in (both, single)]
    assert digest(models[0]) == digest(models[1])


def test_tensors_for_video_are_left_out(folders, segmenter, name, tmp_path):
    more = {"memory_encoder.projection.weight": torch.ones(2), "object_pointer_proj.proj_in.bias": torch.ones(2)}
    folder = reweighted(folders[name], tmp_path / "video", lambda w: w | more)
    loaded = COMPONENTS[name](checkpoint=str(folder), device="cpu")
    assert digest(loaded.network.model) == digest(segmenter.network.model)


@pytest.mark.slow
def test_the_tracker_comes_out_of_the_whole_of_sam_3(tmp_path):
    from transformers import Sam3TrackerModel

    whole = tiny_sam3.save_whole(tmp_path / "whole", **tiny_sam3.clip_text(300, 0, 1))
    ours = Sam3Tracker(checkpoint=str(whole), device="cpu").network.model
    assert digest(ours) == digest(Sam3TrackerModel.from_pretrained(whole))


@pytest.mark.parametrize(
    ("change", "stated"),
    [
        (lambda c: c["vision_config"]["backbone_config"].update(architecture="hf-hub:a/b"), "may name files"),
        (lambda c: c["vision_config"]["backbone_config"]["model_args"].update(x="file.bin"), "may name files"),
        (lambda c: c["prompt_encoder_config"].update(image_size=10**9), "image_size: 1000000000"),
        (lambda c: c["prompt_encoder_config"].update(image_size=64), "features of"),
        (lambda c: c.update(auto_map={"AutoModel": "a.B"}), "run code"),
        (lambda c: c["mask_decoder_config"].update(num_hidden_layers=10**8), "no model of"),
    ],
    ids=["a hub name", "a file", "a huge input", "another input", "code", "layers"],
)
def test_configurations_that_are_no_such_models_are_refused(folders, tmp_path, change, stated):
    folder = reconfigured(folders["edgetam"], tmp_path / "changed", change)
    with pytest.raises(InputError, match=stated):
        EdgeTam(checkpoint=str(folder), device="cpu")


def test_a_folder_without_configuration_and_one_of_another_model_are_refused(folders, tmp_path):
    bare = reweighted(folders["edgetam"], tmp_path / "bare", lambda w: None)
    (bare / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config.json"):
        EdgeTam(checkpoint=str(bare), device="cpu")
    with pytest.raises(InputError, match="is a model of edgetam"):
        Sam3Tracker(checkpoint=str(folders["edgetam"]), device="cpu")


def test_images_that_are_none_are_refused(segmenter):
    with pytest.raises(SegmenterError, match="H x W x 3 uint8"):
        segmenter.segment(np.zeros((8, 8), np.uint8), [SpatialPrompt(box=(0, 0, 4, 4))])
