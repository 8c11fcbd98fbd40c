"""Checkpoints of every published layout load; others are refused with the difference."""

import json
import logging
import pickle
import sys

import numpy as np
import pytest
import torch
from medground_sam2 import MedSam2, Sam2

from medground.errors import InputError, PluginError, RecipeError
from medground.types import SpatialPrompt

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
PROMPTS = [SpatialPrompt(box=(10, 12, 60, 58)), SpatialPrompt(points=((30, 40), (70, 20)), labels=(1, 0))]


def load(path, **arguments) -> Sam2:
    return Sam2(checkpoint=str(path), image_size=256, **arguments)


def logits(segmenter: Sam2) -> np.ndarray:
    return np.stack([values for values, _ in segmenter.logits(IMAGE, PROMPTS)])


def changed(faint, tmp_path, change):
    state = torch.load(faint, weights_only=True)["model"]
    state = change(state) or state
    path = tmp_path / "changed.pt"
    torch.save({"model": state}, path)
    return path


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.fixture(scope="module")
def folder(faint, tmp_path_factory):
    """Save the checkpoint as transformers does: config.json and model.safetensors."""
    path = tmp_path_factory.mktemp("folder")
    load(faint).network.model.save_pretrained(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["transformers", "official"])
@pytest.mark.lane
def test_a_transformers_folder_and_its_file_load_in_both_backends(backend, faint, folder, caplog):
    expected = logits(load(faint))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for path in (folder, folder / "model.safetensors"):
            np.testing.assert_allclose(logits(load(path, backend=backend)), expected, atol=1e-5)
    assert not caplog.records, "the folder's config.json says what the tensors do not"


@pytest.mark.slow
def test_the_folder_of_a_video_model_loads(folder, faint, tmp_path):
    """Published folders hold the video model of transformers, with tensors for memory besides those of the image model."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors |= {
        "memory_encoder.projection.weight": torch.zeros(2),
        "memory_temporal_positional_encoding": torch.zeros(2),
        "mask_downsample.weight": torch.zeros(1),
        "object_pointer_proj.proj_in.weight": torch.zeros(2),
        "temporal_positional_encoding_projection_layer.weight": torch.zeros(2),
        "no_memory_positional_encoding": torch.zeros(1),
        "no_object_pointer": torch.zeros(1),
        "occlusion_spatial_embedding_parameter": torch.zeros(1),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "sam2_video"}))
    np.testing.assert_allclose(logits(load(tmp_path)), logits(load(faint)), atol=1e-5)


def test_transformers_loads_the_folder_itself(folder):
    from transformers import Sam2Model

    _, info = Sam2Model.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.slow
def test_a_checkpoint_without_wrapper_or_from_several_gpus_loads(faint, tmp_path):
    state = torch.load(faint, weights_only=True)["model"]
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "bare.pt")
    np.testing.assert_array_equal(logits(load(tmp_path / "bare.pt")), logits(load(faint)))


@pytest.mark.slow
def test_a_checkpoint_without_its_video_part_loads(faint, tmp_path):
    path = changed(
        faint, tmp_path, lambda state: {k: v for k, v in state.items() if not k.startswith(("memory_", "obj_ptr_"))}
    )
    np.testing.assert_array_equal(logits(load(path)), logits(load(faint)))


@pytest.mark.parametrize("backend", ["transformers", "official"])
@pytest.mark.parametrize(
    ("change", "stated"),
    [
        (without("sam_mask_decoder.iou_token.weight"), "1 missing: sam_mask_decoder.iou_token.weight"),
        (lambda s: s.update({"adapter.up": torch.ones(2)}), "1 unexpected: adapter.up"),
        (lambda s: s.update({"no_mem_embed": torch.ones(1, 1, 8)}), r"no_mem_embed \(1x1x8, expected 1x1x256\)"),
        (without("image_encoder.trunk.pos_embed"), "image_encoder.trunk.pos_embed is missing"),
        (without("sam_prompt_encoder.point_embeddings.2.weight"), "1 missing: .*embeddings.2.weight"),
    ],
    ids=["missing", "extra", "shape", "size unreadable", "one row of a table"],
)
def test_missing_and_extra_tensors_are_named(backend, change, stated, faint, tmp_path):
    with pytest.raises(InputError, match=stated):
        load(changed(faint, tmp_path, change), backend=backend)


def test_missing_tensors_of_a_folder_have_the_names_of_the_folder(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"1 missing: mask_decoder.iou_token.weight"):
        load(tmp_path)


def test_a_checkpoint_of_the_first_sam_says_which_segmenter_takes_it(tmp_path):
    torch.save({"image_encoder.patch_embed.proj.weight": torch.ones(4, 3, 16, 16)}, tmp_path / "sam_vit_b.pth")
    with pytest.raises(InputError, match=r"not a SAM 2 model.*use the segmenter sam, medsam or sammed2d"):
        load(tmp_path / "sam_vit_b.pth")


def test_a_truncated_file_is_refused_in_one_sentence(faint, tmp_path):
    data = faint.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut.pt is truncated: .* the end is missing"):
        load(tmp_path / "cut.pt")


def test_a_file_that_would_run_code_is_not_opened(tmp_path):
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match=r"trap.pt holds the object .*open besides tensors"):
        load(tmp_path / "trap.pt")
    assert not marker.exists()


def test_an_absent_checkpoint_says_how_to_fetch_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"wanglab/MedSAM2/MedSAM2_latest.pt.*medground fetch"):
        MedSam2()
    with pytest.raises(InputError, match=r"nowhere.pt does not exist"):
        load(tmp_path / "nowhere.pt")


@pytest.mark.slow
def test_sizes_that_tensors_do_not_show_are_arguments(faint, caplog):
    with caplog.at_level(logging.WARNING):
        expected = logits(load(faint))
    assert "faint.pt is none of the published SAM 2 sizes" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        same = logits(load(faint, heads=1, windows=[8, 4, 14, 7], global_blocks=[3]))
    assert not caplog.records
    np.testing.assert_array_equal(same, expected)
    assert np.abs(logits(load(faint, heads=2)) - expected).max() > 1e-4


@pytest.mark.parametrize(
    ("arguments", "stated"),
    [
        ({"backend": "oficial"}, "did you mean 'official'"),
        ({"protocol": "medresoner"}, "did you mean 'medreasoner'"),
        ({"image_size": 500}, "image_size 500 is not a multiple of 32"),
        ({"windows": [8, 4]}, "one number per stage"),
        ({"windows": [7, 4, 14, 7]}, "windows starts with 7"),
        ({"heads": 3}, "do not divide"),
        ({"dtype": "float8"}, "no dtype 'float8'"),
    ],
)
def test_invalid_arguments_are_refused(arguments, stated, faint):
    with pytest.raises(RecipeError, match=stated):
        Sam2(**{"checkpoint": str(faint), "image_size": 256} | arguments)


def test_without_the_package_the_official_backend_says_what_to_install(faint, monkeypatch):
    monkeypatch.setitem(sys.modules, "sam2", None)
    with pytest.raises(PluginError, match=r"needs the package sam2.*medground\[sam2-official\]"):
        load(faint, backend="official")


def test_a_pickled_segmenter_gives_the_same_masks(faint, hash_of):
    segmenter = load(faint)
    copy = pickle.loads(pickle.dumps(segmenter))
    assert repr(copy) == repr(segmenter)
    assert hash_of(copy.network.model) == hash_of(segmenter.network.model)
