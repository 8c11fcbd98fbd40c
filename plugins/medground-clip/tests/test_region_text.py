"""The term `region_text` on a small random open_clip model that the tests build and save."""

import importlib.util
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from medground_clip.region_text import RegionText

from medground.errors import InputError, RecipeError
from medground.geometry import Box
from medground.testing import check_reward
from medground.types import Completion, Grounding, Query, Region, Rollout, Sample, Target

if importlib.util.find_spec("open_clip") is None:
    pytest.skip("open_clip is not installed (extra clip)", allow_module_level=True)
pytestmark = pytest.mark.slow  # importing open_clip alone takes seconds

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Save a folder in the layout of open_clip, and the same weights as a file with a registered model name."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    (folder / "tiny-medground.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-medground.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-medground").state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def rollout(box, category="liver", seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    regions = () if box is None else (Region(box=Box(*box)),)
    return Rollout(
        sample=Sample(
            query=Query(image=image, question=""),
            target=Target(regions=(Region(box=Box(1, 1, 9, 9), points=()),)),
            labels={"category": category} if category else {},
        ),
        completion=Completion(text="", frame=None),
        grounding=Grounding(regions=regions),
    )


@pytest.mark.lane
def test_region_text_passes_the_conformance_kit(tiny):
    check_reward(RegionText, checkpoint=str(tiny))


def test_the_value_is_the_cosine_of_the_models_embeddings(tiny):
    import open_clip
    import torch
    from PIL import Image

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tiny}")
    prepare = open_clip.image_transform(32, is_train=False, resize_mode="longest")
    case = rollout((5.5, 3, 30, 20.2))
    crop = Image.fromarray(case.sample.query.image[3:21, 5:30])
    with torch.inference_mode():
        image = model.eval().encode_image(prepare(crop)[None], normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(f"local-dir:{tiny}")(["a scan of liver"]), normalize=True)
    term = RegionText(checkpoint=str(tiny), template="a scan of {}")
    assert term(case).value == pytest.approx((1 + float(image @ text.T)) / 2, abs=1e-6)
    assert term(rollout((5.5, 3, 30, 20.2), category="spleen")).value != term(case).value


def test_a_weights_file_with_its_model_name_gives_the_same_value(tiny):
    case = rollout((5, 3, 30, 20))
    by_file = RegionText(checkpoint=str(tiny / "open_clip_pytorch_model.bin"), model="tiny-medground")
    assert by_file(case).value == RegionText(checkpoint=str(tiny))(case).value


def test_batches_answer_in_order_and_embed_each_region_once(tiny, monkeypatch):
    term = RegionText(checkpoint=str(tiny), batch_size=2)
    boxes = [(0, 0, 10, 10), None, (0, 0, 10, 10), (5, 5, 30, 30), (1, 2, 30, 30), (-50, 0, -20, 10)]
    cases = [rollout(box) for box in boxes] + [rollout((0, 0, 10, 10), category=None), rollout((0, 0, 10, 10), seed=1)]
    expected = [term(case).value for case in cases]
    fresh = RegionText(checkpoint=str(tiny), batch_size=2)
    seen = []
    network = fresh._load()
    whole = type(network).regions

    def counting(self, crops):
        seen.append(len(crops))
        return whole(self, crops)

    monkeypatch.setattr(type(network), "regions", counting)
    assert [result.value for result in fresh.batch(cases)] == pytest.approx(expected, abs=1e-5)
    assert seen == [2, 2]  # four distinct regions
    assert [result.value for result in fresh.batch(cases)] == pytest.approx(expected, abs=1e-5)
    assert seen == [2, 2]


def test_the_cache_is_bounded_and_keyed_by_content(tiny):
    term = RegionText(checkpoint=str(tiny), cache_size=3)
    for x in range(6):
        term(rollout((x, 0, x + 10, 10)))
    assert len(term._regions) == 3
    same_content = replace(rollout((5, 0, 15, 10)))
    before = list(term._regions)
    term(same_content)
    assert set(term._regions) == set(before)


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        (None, "missing_keys"),
        ((20, 5, 10, 8), "inverted_box"),
        ((20, 5, 20, 8), "degenerate_box"),
        ((100, 5, 120, 8), "out_of_frame"),
        ((float("nan"), 5, 20, 8), "nonfinite"),
    ],
)
def test_an_answer_without_a_region_earns_nothing(tiny, box, fault):
    result = RegionText(checkpoint=str(tiny))(rollout(box))
    assert (result.value, result.details) == (0.0, {"fault": fault})


def test_without_a_category_the_term_abstains_and_loads_nothing(tiny):
    term = RegionText(checkpoint=str(tiny))
    assert term(rollout((0, 0, 5, 5), category=None)).value is None
    assert term._network is None


def test_a_pickled_term_does_not_contain_the_model(tiny):
    term = RegionText(checkpoint=str(tiny))
    value = term(rollout((0, 0, 10, 10))).value
    packed = pickle.dumps(term)
    assert len(packed) < 1000
    assert pickle.loads(packed)(rollout((0, 0, 10, 10))).value == value


def test_each_unusable_checkpoint_is_refused_by_name(tiny, tmp_path):
    case = rollout((0, 0, 10, 10))
    with pytest.raises(RecipeError, match="checkpoint"):
        RegionText()
    with pytest.raises(RecipeError, match="category"):
        RegionText(checkpoint=str(tiny), template="a liver")
    with pytest.raises(InputError, match="not exist"):
        RegionText(checkpoint=str(tmp_path / "nothing.bin"))(case)
    with pytest.raises(RecipeError, match="architecture"):
        RegionText(checkpoint=str(tiny / "open_clip_pytorch_model.bin"))(case)
    with pytest.raises(RecipeError, match="ViT-B-32"):
        RegionText(checkpoint=str(tiny / "open_clip_pytorch_model.bin"), model="ViT-B-33")(case)
    with pytest.raises(InputError, match="open_clip_config"):
        RegionText(checkpoint=str(tmp_path))(case)
    with pytest.raises(InputError, match=r"do not fit the model: .* missing: .* of another shape: .*the file holds"):
        RegionText(checkpoint=str(tiny / "open_clip_pytorch_model.bin"), model="ViT-S-32-alt")(case)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    with pytest.raises(InputError, match="holds 0 files of weights"):
        RegionText(checkpoint=str(tmp_path))(case)


def test_a_checkpoint_never_runs_code(tiny, tmp_path):
    import torch

    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(InputError, match=r"holds the object io\.open besides tensors"):
        RegionText(checkpoint=str(tmp_path / "bomb.pt"), model="tiny-medground")(rollout((0, 0, 10, 10)))
    assert not marker.exists()


def test_a_text_tower_from_the_hub_is_an_error_not_a_download(tmp_path):
    import torch

    wanting = {**TINY, "text_cfg": {"hf_model_name": "nobody/nothing", "hf_tokenizer_name": "nobody/nothing"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": wanting}))
    torch.save({"logit_scale": torch.ones(())}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        RegionText(checkpoint=str(tmp_path))(rollout((0, 0, 10, 10)))
