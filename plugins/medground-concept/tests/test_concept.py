"""sam3, sam3_lite_text and clipseg equal transformers called directly, encode once, and refuse folders that are not theirs."""

import logging
import pickle

import concept_folders
import numpy as np
import pytest
import torch
from concept_folders import END, SIDE, START
from medground_concept import ClipSeg, Sam3, Sam3LiteText
from PIL import Image as PIL
from tiny_folders import at_odd_sizes, digest, load_shared, odd_images, reconfigured, reweighted
from tiny_sam3 import SIDE as SAM3_SIDE

from medground.errors import InputError, RecipeError, SegmenterError
from medground.geometry import Box, Point
from medground.registry import factory
from medground.testing import check_segmenter
from medground.types import SpatialPrompt

pytest.importorskip("torchvision")
DETECTORS = {"sam3": Sam3, "sam3_lite_text": Sam3LiteText}
COMPONENTS = {**DETECTORS, "clipseg": ClipSeg}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("folders")
    return {
        "sam3": concept_folders.save_sam3(base / "sam3"),
        "sam3_lite_text": concept_folders.save_lite(base / "lite"),
        "clipseg": concept_folders.save_clipseg(base / "clipseg"),
    }


def load(name, folders, **arguments):
    return load_shared(COMPONENTS[name], checkpoint=str(folders[name]), **options(name), **arguments)


def options(name):
    return {"image_size": SIDE} if name == "clipseg" else {"least_score": 0.0}


@pytest.fixture(params=list(COMPONENTS))
def name(request):
    return request.param


def texts() -> list[SpatialPrompt]:
    return [SpatialPrompt(text=text) for text in ("lung nodule", "polyp", "something  else\nentirely")]


def with_exemplars(image) -> list[SpatialPrompt]:
    height, width = image.shape[:2]
    one, other = Box(0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height), Box(0, 0, 0.3 * width, 0.4 * height)
    return [
        SpatialPrompt(exemplars=(one,)),
        SpatialPrompt(text="polyp", exemplars=(one,)),
        SpatialPrompt(text="polyp", exemplars=(other, one)),
    ]


@pytest.mark.slow
@at_odd_sizes
@pytest.mark.parametrize("name", list(DETECTORS))
def test_detections_equal_transformers_called_directly_on_odd_images(name, folders, sizes):
    from transformers import AutoTokenizer, Sam3LiteTextModel, Sam3Model, Sam3Processor
    from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

    images = Sam3ImageProcessor(size={"height": SAM3_SIDE, "width": SAM3_SIDE})
    processor = Sam3Processor(images, AutoTokenizer.from_pretrained(folders[name]))
    model = {"sam3": Sam3Model, "sam3_lite_text": Sam3LiteTextModel}[name].from_pretrained(folders[name]).eval()
    segmenter, largest, count = load(name, folders), 0.0, 0
    for image in odd_images(sizes):
        prompts = [*texts(), *with_exemplars(image)]
        for prompt, mask in zip(prompts, segmenter.segment(image, prompts), strict=True):
            boxes = {"input_boxes": [[list(box) for box in prompt.exemplars]]} if prompt.exemplars else {}
            words = " ".join(prompt.text.split()) or None
            inputs = processor(images=PIL.fromarray(image), text=words, return_tensors="pt", **boxes)
            inputs.pop("original_sizes")
            with torch.inference_mode():
                output = model(**inputs)
            result = processor.post_process_instance_segmentation(
                output, threshold=0.0, target_sizes=[image.shape[:2]]
            )[0]
            expected = [
                (s, m) for s, m in zip(result["scores"].tolist(), result["masks"].numpy(), strict=True) if m.any()
            ]
            expected.sort(key=lambda pair: -pair[0])
            assert [float(instance.score) for instance in mask.instances] == pytest.approx(
                [score for score, _ in expected], abs=1e-6
            )
            largest = max([largest, *(abs(i.score - s) for i, (s, _) in zip(mask.instances, expected, strict=True))])
            largest = max(largest, abs(mask.presence - float(output.presence_logits.sigmoid())))
            for instance, (_, data) in zip(mask.instances, expected, strict=True):
                assert np.mean(instance.data != data.astype(bool)) < 1e-3
            count += len(expected)
    print(f"{name}: largest difference of scores and presence {largest:.1e}, {count} instances")
    assert count > 40, "the random models find things"
    assert largest <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DETECTORS))
def test_maps_equal_those_of_one_call_of_transformers(name, folders):
    """The numbers behind the masks, for prompts of several images that are decoded together."""
    network = load(name, folders).network
    images = odd_images()
    pixels = torch.randn(len(images), 3, SAM3_SIDE, SAM3_SIDE)
    words = ["lung nodule", "polyp", "lung nodule", "tumour"]
    ids, mask = network.tokens(words)
    boxes = torch.tensor([[[0.5, 0.5, 0.3, 0.4], [0.2, 0.3, 0.1, 0.2]]]).repeat(len(images), 1, 1)
    for exemplars in (None, boxes):
        with torch.inference_mode():
            ours = network.decode(network.encode(pixels), words, exemplars)
            theirs = network.model(pixel_values=pixels, input_ids=ids, attention_mask=mask, input_boxes=exemplars)
        largest = float((ours.masks - theirs.pred_masks.sigmoid()).abs().max())
        print(f"{name}: largest difference of maps {largest:.1e}")
        assert largest <= 1e-6
        assert (ours.presence - theirs.presence_logits[:, 0].sigmoid()).abs().max() <= 1e-6


@pytest.mark.slow
@at_odd_sizes
def test_clipseg_equals_transformers_called_directly_on_odd_images(folders, sizes):
    from transformers import AutoTokenizer, CLIPSegForImageSegmentation, CLIPSegProcessor, ViTImageProcessor

    side = {"height": SIDE, "width": SIDE}
    images = ViTImageProcessor(size=side, resample=2, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    processor = CLIPSegProcessor(images, AutoTokenizer.from_pretrained(folders["clipseg"]))
    model = CLIPSegForImageSegmentation.from_pretrained(folders["clipseg"]).eval()
    segmenter, largest = load("clipseg", folders), 0.0
    for image in odd_images(sizes):
        for prompt, (logits, score) in zip(texts(), segmenter.logits(image, texts()), strict=True):
            inputs = processor(text=[" ".join(prompt.text.split())], images=[PIL.fromarray(image)], return_tensors="pt")
            with torch.inference_mode():
                low = model(**inputs).logits.reshape(1, 1, SIDE, SIDE)
            full = torch.nn.functional.interpolate(low, image.shape[:2], mode="bilinear")[0, 0].numpy()
            scale = max(1.0, np.abs(full).max())
            assert np.abs(full).max() > 0.05, "the random model answers something"
            largest = max(largest, np.abs(logits - full).max() / scale, abs(score - float(low.max().sigmoid())))
    print(f"clipseg: largest difference {largest:.1e}")
    assert largest <= 1e-6


def test_prompts_of_all_kinds_share_one_encoding(name, folders):
    segmenter = load(name, folders)
    encoded = []
    network = segmenter.network
    encoder = network.clip.vision_model if name == "clipseg" else network.model.vision_encoder
    encoder.register_forward_pre_hook(lambda *given: encoded.append(1))
    image = odd_images()[2]
    segmenter.segment(image, texts() + ([] if name == "clipseg" else with_exemplars(image)))
    segmenter.segment(image.copy(), texts()[:1])
    assert len(encoded) == 1
    assert (segmenter.stats.hits, segmenter.stats.misses) == (1, 1)


def test_the_weights_do_not_change_and_a_copy_answers_the_same(name, folders):
    segmenter = load(name, folders)
    model = segmenter.network if name == "clipseg" else segmenter.network.model
    before, image = digest(model), odd_images()[1]
    first = segmenter.segment(image, texts())
    copy = pickle.loads(pickle.dumps(segmenter))
    assert digest(model) == before
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for mine, its in zip(first, copy.segment(image, texts()), strict=True):
        np.testing.assert_array_equal(mine.data, its.data)


@pytest.mark.slow
def test_it_passes_the_conformance_kit(name, folders):
    quick = name == "sam3_lite_text"  # it differs from sam3 in its text encoder alone
    check_segmenter(COMPONENTS[name], quick=quick, checkpoint=str(folders[name]), device="cpu", **options(name))


@pytest.mark.parametrize("name", list(DETECTORS))
def test_what_is_not_there_is_an_empty_mask_with_its_presence(name, folders, monkeypatch):
    image = odd_images()[2]
    segmenter = load(name, folders)
    (loose,) = segmenter.segment(image, texts()[:1])
    monkeypatch.setattr(segmenter, "least_score", 0.999)
    (mask,) = segmenter.segment(image, texts()[:1])
    assert mask.absent and not mask.instances
    assert mask.presence == pytest.approx(loose.presence)
    assert mask.score == pytest.approx(1 - mask.presence)
    assert not loose.absent and loose.score == max(instance.score for instance in loose.instances)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("sam3", SpatialPrompt(points=(Point(3, 4),))),
        ("sam3", SpatialPrompt(points=(Point(3, 4),), text="polyp")),
        ("sam3_lite_text", SpatialPrompt(box=Box(0, 0, 9, 9), text="polyp")),
        ("clipseg", SpatialPrompt(box=Box(0, 0, 9, 9))),
        ("clipseg", SpatialPrompt(box=Box(0, 0, 9, 9), text="polyp")),
        ("clipseg", SpatialPrompt(exemplars=(Box(0, 0, 9, 9),))),
    ],
)
def test_prompts_that_it_cannot_read_are_refused(name, prompt, folders):
    with pytest.raises(SegmenterError, match=f"{name} cannot read (box|points|exemplars): SpatialPrompt"):
        load(name, folders).segment(odd_images()[2], [prompt])


def test_a_text_that_is_too_long_is_cut_with_a_warning(name, folders, caplog):
    segmenter = load(name, folders)
    long = SpatialPrompt(text="polyp " * 90)
    with caplog.at_level(logging.WARNING):
        (mask,) = segmenter.segment(odd_images()[2], [long])
        (cut,) = segmenter.segment(odd_images()[2], [SpatialPrompt(text="polyp " * 80)])
    np.testing.assert_array_equal(mask.data, cut.data)
    assert "tokens of a text are read, of" in caplog.text


def test_special_tokens_in_a_text_are_words_and_broken_characters_question_marks(name, folders):
    segmenter = load(name, folders)
    tokens = segmenter.tokens if name == "clipseg" else segmenter.network.tokens
    ids, mask = tokens([f"{END} polyp {START}"])
    used = ids[0][mask[0].bool()].tolist()
    assert [used.count(number) for number in (0, 1)] == [1, 1] and (used[0], used[-1]) == (0, 1)
    broken, marked = tokens(["a\ud800b", "a?b"])[0].tolist()
    assert broken == marked
    assert len(segmenter.segment(odd_images()[2], [SpatialPrompt(text="a\ud800b")])) == 1


def test_a_mirrored_view_of_an_image_is_segmented_as_its_copy(name, folders):
    segmenter, image = load(name, folders, cache_mib=0), odd_images()[2][:, ::-1]
    (view,), (copy,) = (segmenter.segment(pixels, texts()[:1]) for pixels in (image, image.copy()))
    np.testing.assert_array_equal(view.data, copy.data)
    assert view.score == copy.score


@pytest.mark.parametrize("name", list(DETECTORS))
def test_an_exemplar_is_cut_at_the_edge_of_its_image(name, folders):
    segmenter, image = load(name, folders), odd_images()[2]
    height, width = image.shape[:2]
    boxes = [Box(0, 0, width, height), Box(-1e30, -1e9, 1e9, 1e300), Box(-9, -9, width + 9, height + 9)]
    whole, *larger = segmenter.segment(image, [SpatialPrompt(exemplars=(box,)) for box in boxes])
    for mask in larger:
        np.testing.assert_array_equal(mask.data, whole.data)
        assert mask.score == pytest.approx(whole.score, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "stated"),
    [
        (lambda w: dict(list(w.items())[1:]), "1 missing"),
        (lambda w: w | {"adapter.up": torch.ones(2)}, "1 unexpected: adapter.up"),
        (
            lambda w: {k: torch.ones(3, 3) if "text_projection.weight" in k else t for k, t in w.items()},
            "of another shape",
        ),
        (lambda w: {k: t * float("nan") if "text_projection" in k else t for k, t in w.items()}, "NaN or infinity in"),
    ],
    ids=["missing", "extra", "shape", "NaN"],
)
def test_tensors_that_do_not_fit_are_named_in_one_sentence(name, folders, tmp_path, change, stated):
    folder = reweighted(folders[name], tmp_path / "changed", change)
    with pytest.raises(InputError, match=stated):
        COMPONENTS[name](checkpoint=str(folder), device="cpu", **options(name))


@pytest.mark.slow
def test_sam3_comes_out_of_the_folder_that_is_published(tmp_path):
    from transformers import Sam3Model

    whole = concept_folders.save_whole_sam3(tmp_path / "whole")
    ours = Sam3(checkpoint=str(whole), device="cpu").network.model
    assert digest(ours) == digest(Sam3Model.from_pretrained(whole))


def test_folders_of_other_models_and_without_a_tokenizer_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="is a model of clipseg, not of sam3"):
        Sam3(checkpoint=str(folders["clipseg"]), device="cpu")
    small = {"text_encoder.text_model.embeddings.token_embedding.weight": torch.ones(100, 32)}
    other = reweighted(folders["sam3"], tmp_path / "other", lambda w: w | small)
    other = reconfigured(other, tmp_path / "small", lambda settings: settings["text_config"].update(vocab_size=100))
    with pytest.raises(InputError, match=r"the tokenizer has .* tokens, its model 100"):
        Sam3(checkpoint=str(other), device="cpu")


def test_a_folder_without_its_tokenizer_or_its_settings_is_refused(name, folders, tmp_path):
    bare = reconfigured(folders[name], tmp_path / "bare", lambda settings: None)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        load(name, {name: bare})
    (unset := reconfigured(folders[name], tmp_path / "unset", lambda settings: None)).joinpath("config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json"):
        load(name, {name: unset})


def test_each_name_is_registered_for_its_own_class():
    assert {name: factory("segmenter", name) for name in COMPONENTS} == COMPONENTS


@pytest.mark.slow
def test_images_that_are_encoded_together_keep_their_own_embeddings(name, folders):
    together, images = load(name, folders, encode_batch=3), odd_images()[1:]
    alone = load(name, folders)
    for image, masks in zip(images, together.segment_batch(images, [texts()] * len(images)), strict=True):
        for mask, one in zip(masks, alone.segment(image, texts()), strict=True):
            assert np.mean(mask.data != one.data) <= 1e-3
            assert mask.score == pytest.approx(one.score, abs=1e-5)


@pytest.mark.parametrize("name", list(DETECTORS))
def test_a_dtype_that_is_none_is_refused_before_anything_is_loaded(name, folders, tmp_path):
    bare = reconfigured(folders[name], tmp_path / "bare", lambda settings: None)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match="float8"):
        load(name, {name: bare}, dtype="float8")


@pytest.mark.slow
def test_clipseg_takes_old_tables_of_positions_and_refuses_a_size_that_is_no_multiple(folders, tmp_path):
    old = {"clip.text_model.embeddings.position_ids": torch.arange(24)[None]}
    folder = reweighted(folders["clipseg"], tmp_path / "old", lambda w: w | old)
    assert digest(ClipSeg(checkpoint=str(folder), device="cpu").network) == digest(load("clipseg", folders).network)
    with pytest.raises(RecipeError, match="image_size 65 is not a multiple of 16"):
        ClipSeg(checkpoint=str(folder), device="cpu", image_size=65)


def test_images_that_are_none_are_refused(name, folders):
    with pytest.raises(SegmenterError, match="H x W x 3 uint8"):
        load(name, folders).segment(np.zeros((8, 8), np.uint8), texts()[:1])


def test_kinds_are_known_without_torch():
    import subprocess
    import sys

    code = (
        "import sys, medground_concept as m\n"
        "assert m.Sam3.accepts == m.Sam3LiteText.accepts == {'text', 'exemplars'} and m.ClipSeg.accepts == {'text'}\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_tokenizer_that_would_never_end_is_refused(folders, tmp_path):
    import json

    slow = reconfigured(folders["sam3"], tmp_path / "slow", lambda settings: None)
    content = json.loads((slow / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a|aa|a+)+(a|aa|a+)+b$"},
        "behavior": "Isolated",
        "invert": False,
    }
    (slow / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="takes more than"):
        Sam3(checkpoint=str(slow), device="cpu")
