"""Published files load with every tensor checked; other files are refused in one sentence."""

import numpy as np
import pytest
import torch
from medground_sam import MedSam, Sam, SamMed2D
from medground_sam.layout import TIED, Sizes, sizes_of, to_original, to_transformers
from medground_sam.networks import TransformersNetwork, official_model
from safetensors.torch import save_file

from medground.errors import InputError, RecipeError

FULL = {
    "mlp": 3072,
    "window": 14,
    "prompt": 256,
    "mask_channels": 16,
    "masks": 3,
    "decoder_depth": 2,
    "decoder_mlp": 2048,
    "decoder_downsample": 2,
    "iou_hidden": 256,
}
BASE = Sizes(image=1024, patch=16, width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11), **FULL)


@pytest.mark.parametrize(
    ("name", "width", "depth", "count"),
    [
        ("b", 768, 12, 314),
        pytest.param("l", 1024, 24, 482, marks=pytest.mark.slow),
        pytest.param("h", 1280, 32, 594, marks=pytest.mark.slow),
    ],
)
def test_full_size_models_have_the_published_names_and_shapes(name, width, depth, count):
    import segment_anything

    with torch.device("meta"):
        published = getattr(segment_anything, f"build_sam_vit_{name}")().state_dict()
        sizes = sizes_of(published, name)
        mine = {key: value for key, value in TransformersNetwork(sizes).module.state_dict().items() if key != TIED}
    assert len(published) == count and (sizes.width, sizes.depth) == (width, depth)
    assert {to_transformers(key): value.shape for key, value in published.items()} == {
        key: value.shape for key, value in mine.items()
    }
    assert [to_original(to_transformers(key)) for key in published] == list(published)
    assert sizes != BASE or name == "b"


def test_full_size_sammed2d_has_the_published_386_tensors():
    sizes = Sizes(
        image=256, patch=16, width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11), adapters=tuple(range(12)),
        adapter_hidden=192, **FULL,
    )  # fmt: skip
    with torch.device("meta"):
        published = official_model(sizes).state_dict()
        module = TransformersNetwork(sizes).module
    assert len(published) == 386 and sizes_of(published, "") == sizes
    assert published["image_encoder.blocks.2.attn.rel_pos_h"].shape == (31, 64)
    assert published["image_encoder.blocks.0.Adapter.spatial.2.weight"].shape == (768, 768, 4, 4)
    assert {to_transformers(key) for key in published} == module.state_dict().keys() - {TIED}
    assert round(sum(tensor.numel() for tensor in published.values()) / 1e6, 2) == 271.24


def maps(segmenter, make_picture, make_prompts):
    return np.stack([values for values, _ in segmenter.logits(make_picture((40, 60)), make_prompts((40, 60)))])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["transformers", "official"])
def test_every_file_format_gives_the_same_weights(tmp_path, reference, sam_file, backend, make_picture, make_prompts):
    expected = maps(Sam(checkpoint=sam_file, backend=backend), make_picture, make_prompts)
    state = reference.state_dict()
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "wrapped.pth")
    save_file(state, tmp_path / "published.safetensors")
    network = TransformersNetwork(sizes_of(state, ""))
    network.load(state, "")
    network.module.save_pretrained(tmp_path / "folder")
    both = {key: value.clone() for key, value in network.module.state_dict().items()}
    save_file(both, tmp_path / "with_the_second_name.safetensors")
    assert TIED in both
    for name in ("wrapped.pth", "published.safetensors", "folder", "with_the_second_name.safetensors"):
        built = Sam(checkpoint=str(tmp_path / name), backend=backend)
        np.testing.assert_array_equal(maps(built, make_picture, make_prompts), expected, err_msg=name)


@pytest.mark.slow
def test_sammed2d_with_and_without_wrapper_optimizer_and_adapters(tmp_path, med2d_file, make_picture, make_prompts):
    expected = maps(SamMed2D(checkpoint=med2d_file), make_picture, make_prompts)
    state = torch.load(med2d_file, weights_only=True)["model"]
    torch.save(state, tmp_path / "flat.pth")
    weight = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([weight])
    weight.sum().backward()
    adam.step()
    torch.save({"model": state, "optimizer": adam}, tmp_path / "trained.pth")
    for name in ("flat.pth", "trained.pth"):
        built = SamMed2D(checkpoint=str(tmp_path / name))
        np.testing.assert_array_equal(maps(built, make_picture, make_prompts), expected)
    plain = {key: value for key, value in state.items() if ".Adapter." not in key}
    torch.save({"model": plain}, tmp_path / "ft-sam.pth")
    tuned = maps(SamMed2D(checkpoint=str(tmp_path / "ft-sam.pth")), make_picture, make_prompts)
    assert not np.allclose(tuned, expected)


def test_differences_are_named_as_the_file_names_them(tmp_path, reference):
    state = dict(reference.state_dict())
    lost = state.pop("mask_decoder.iou_token.weight")
    state["extra.weight"] = lost
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(
        InputError, match=r"m\.pth.*1 missing: mask_decoder.iou_token.weight; 1 unexpected: extra.weight"
    ):
        MedSam(checkpoint=str(tmp_path / "m.pth"))
    save_file({to_transformers(key): value.clone() for key, value in state.items()}, tmp_path / "h.safetensors")
    state.pop("image_encoder.neck.0.weight")
    save_file({to_transformers(key): value.clone() for key, value in state.items()}, tmp_path / "h.safetensors")
    for backend in ("transformers", "official"):
        with pytest.raises(InputError, match=r"h\.safetensors.*vision_encoder\.neck\.conv1\.weight"):
            Sam(checkpoint=str(tmp_path / "h.safetensors"), backend=backend)


@pytest.mark.parametrize("dropped", ["image_encoder.pos_embed", "image_encoder.blocks.0.norm1.weight"])
def test_a_checkpoint_of_another_model_is_refused(tmp_path, reference, dropped):
    state = {key: value for key, value in reference.state_dict().items() if not key.startswith(dropped)}
    if dropped.endswith("weight"):
        state = {
            "image_encoder.pos_embed": torch.zeros(1, 2, 2, 4),
            "image_encoder.patch_embed.proj.weight": torch.zeros(4, 3, 8, 8),
        }
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(InputError, match=rf"m\.pth is no SAM checkpoint: it lacks {dropped}"):
        Sam(checkpoint=str(tmp_path / "m.pth"))
    with pytest.raises(InputError, match="is no SAM checkpoint"):
        torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "r.pth")
        Sam(checkpoint=str(tmp_path / "r.pth"))


def test_nothing_is_downloaded(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for component in (Sam, MedSam, SamMed2D):
        with pytest.raises(InputError, match="local hub cache"):
            component()


def test_invalid_arguments_are_refused_before_a_file_is_read():
    with pytest.raises(RecipeError, match=r"sam has no backend 'offical'.*did you mean 'official'"):
        Sam(checkpoint="absent.pth", backend="offical")
    with pytest.raises(RecipeError, match="no protocol 'x'"):
        Sam(checkpoint="absent.pth", protocol="x")
