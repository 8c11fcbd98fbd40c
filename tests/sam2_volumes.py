"""A small SAM 2 with memory, a small volume, and what Meta's video predictor answers about them.

    python tests/sam2_volumes.py

writes ``tests/data/sam2_volumes.npz`` anew with the package sam2 1.1.0 (`pip install sam2==1.1.0`): its logits for every case.
Weights and volume are computed, so that the recorded case is compared without that package.
"""

import tempfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from medground.geometry import Box, Point, mask_box
from medground.images.array_volume import array_volume
from medground.segmenters.slices import Slices
from medground.types import Mask, SpatialPrompt

SIDE = 128
SIZES = {"heads": 1, "windows": [8, 4, 4, 2], "global_blocks": [3]}
"""What the tensors do not show."""
SHAPE = (20, 26, 8)
SEED = 3
"""Of the weights: one whose masks cover about half of a slice."""
RECORDED = Path(__file__).parent / "data" / "sam2_volumes.npz"


def plan():
    """Return transformers' video model of these sizes, without memory."""
    from transformers import Sam2VideoConfig, Sam2VideoModel

    grid = SIDE // 4
    config = Sam2VideoConfig(
        image_size=SIDE,
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_feature_sizes": [[grid, grid], [grid // 2, grid // 2], [grid // 4, grid // 4]],
            "fpn_hidden_size": 128,
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "image_size": [SIDE, SIDE],
                "hidden_size": 16,
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [16, 32, 64, 128],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": SIZES["windows"],
                "global_attention_blocks": SIZES["global_blocks"],
            },
        },
        prompt_encoder_config={"image_size": SIDE, "hidden_size": 128},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 2048, "iou_head_hidden_dim": 256},
        memory_attention_hidden_size=128,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[SIDE // 16, SIDE // 16],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=512,
    )
    with torch.device("meta"):
        return Sam2VideoModel(config)


def weights(model=None):
    """Return the tensors of a model by original names: random, with masks, memory and pointers that matter.

    Args:
        model: names and shapes; None is `plan`.
    """
    from medground_sam2.checkpoint import to_original

    state = {}
    for name, tensor in to_original((model or plan()).state_dict()).items():
        values = np.random.default_rng(zlib.crc32(f"{SEED} {name}".encode())).uniform(-1.73, 1.73, tuple(tensor.shape))
        if name.endswith("pred_obj_score_head.layers.2.bias"):
            values = np.full(tensor.shape, 10.0)  # the target is always there
        elif "gamma" in name:
            values = np.abs(values) / 2
        elif "norm" in name and name.endswith("weight"):
            values = 1 + values / 10
        elif tensor.ndim < 2:
            values = values / 20
        elif any(word in name for word in ("tpos", "embed", "no_")):
            values = values / 2
        else:
            values = values / np.sqrt(values[0].size) * (4 if "memory_attention" in name else 1)
        state[name] = torch.tensor(values, dtype=torch.float32)
    return state


def save_weights(folder, change=lambda state: state, model=None):
    """Save them as Meta does."""
    path = Path(folder) / "small.pt"
    torch.save({"model": change(weights(model))}, path)
    return path


def discs():
    """Return a target by axial slice, H×W: a disc that moves and grows."""
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[0]] + 0.5
    return [np.hypot(rows - 11 - 0.5 * k, columns - 9) <= 4 + 0.3 * k for k in range(SHAPE[2])]


def volume():
    """Return the volume: the target on noise, in LPS axes, so that a slice's picture is its plane turned over."""
    noise = np.random.default_rng(0).integers(0, 60, SHAPE)
    return array_volume((noise + 120 * np.stack([disc.T for disc in discs()], axis=2)).astype(np.int16), np.eye(4))


def cases():
    """Return the prompts of one target, by case."""
    target = discs()
    box = SpatialPrompt(box=mask_box(target[3]))
    return {
        "box": {3: box},
        "one point": {3: SpatialPrompt(points=(Point(9.0, 12.5),))},
        "points": {3: SpatialPrompt(points=(Point(9.0, 12.5), Point(17.0, 3.0)), labels=(1, 0))},
        "box and point": {3: SpatialPrompt(box=Box(4.0, 7.0, 14.5, 19.0), points=(Point(8.0, 11.0),))},
        "mask": {3: Mask(data=target[3])},
        "two key slices": {2: SpatialPrompt(box=mask_box(target[2])), 6: Mask(data=target[6])},
    }


def predictor(state, full_side=None):
    """Return Meta's video predictor with these weights.

    It keeps memories in bfloat16 and multiplies them with float32 outside autocast where no pointer is in the past: mended.

    Args:
        state: the tensors.
        full_side: of the input, px, for weights of the published tiny size; None is the small model.
    """
    from importlib.resources import files

    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    published = OmegaConf.create(files("sam2").joinpath("configs/sam2.1/sam2.1_hiera_t.yaml").read_text()).model
    side = full_side or SIDE
    grid = [side // 16, side // 16]
    layer = {"d_model": 128, "dim_feedforward": 64, "self_attention": {"embedding_dim": 128, "feat_sizes": grid}}
    layer |= {"cross_attention": {"embedding_dim": 128, "feat_sizes": grid}}
    changes = {
        "_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor",
        "image_size": side,
        "binarize_mask_from_pts_for_mem_enc": True,
        "sam_mask_decoder_extra_args": {
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
        "image_encoder": {
            "trunk": {
                "embed_dim": 16,
                "stages": [1, 1, 2, 1],
                "global_att_blocks": SIZES["global_blocks"],
                "window_spec": SIZES["windows"],
            },
            "neck": {
                "d_model": 128,
                "position_encoding": {"num_pos_feats": 128},
                "backbone_channel_list": [128, 64, 32, 16],
            },
        },
        "memory_attention": {"d_model": 128, "num_layers": 2, "layer": layer},
        "memory_encoder": {
            "in_dim": 128,
            "fuser": {"layer": {"dim": 128}},
            "mask_downsampler": {"embed_dim": 128},
        },
    }
    if full_side:
        kept = ("_target_", "binarize_mask_from_pts_for_mem_enc", "sam_mask_decoder_extra_args")
        attention = {name: {"feat_sizes": grid} for name in ("self_attention", "cross_attention")}
        changes = {name: changes[name] for name in kept}
        changes |= {"image_size": side, "memory_attention": {"layer": attention}}
    model = instantiate(OmegaConf.merge(published, changes), _recursive_=True).eval()
    model.load_state_dict(state, strict=True)
    attend = model.memory_attention.forward
    model.memory_attention.forward = lambda memory, **named: attend(memory=memory.float(), **named)
    return model


def tensors_of(slices, side=SIDE):
    """Return the slices as Meta's loader of frames reads them from files, `side` px wide and high."""
    from PIL import Image as Pillow
    from sam2.utils.misc import _load_img_as_tensor

    frames = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(slices.count):
            Pillow.fromarray(slices.image(index)).save(f"{folder}/{index}.png")
            frames.append(_load_img_as_tensor(f"{folder}/{index}.png", side)[0])
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.stack(frames).float() - mean) / std


def state_of(model, frames, size):
    """Return what `init_state` returns for a video that is in memory."""
    names = ("point_inputs_per_obj", "mask_inputs_per_obj", "output_dict_per_obj", "temp_output_dict_per_obj")
    state = {name: {} for name in (*names, "frames_tracked_per_obj", "cached_features", "constants")}
    state |= {"obj_id_to_idx": OrderedDict(), "obj_idx_to_id": OrderedDict(), "obj_ids": []}
    state |= {"offload_video_to_cpu": False, "offload_state_to_cpu": False, "images": frames, "num_frames": len(frames)}
    state |= {"video_height": size[0], "video_width": size[1]}
    return state | {"device": torch.device("cpu"), "storage_device": torch.device("cpu")}


@torch.inference_mode()
def reference(model, frames, size, prompts):
    """Return Meta's logits ``[N, H, W]`` for one target, up and down, each way from a state of its own."""
    logits = np.zeros((len(frames), *size), np.float32)
    for down in (True, False):
        state = state_of(model, frames, size)
        for index, prompt in prompts.items():
            if isinstance(prompt, Mask):
                model.add_new_mask(state, index, 1, torch.tensor(prompt.data))
            else:
                points = {"points": prompt.points, "labels": prompt.labels} if prompt.points else {}
                model.add_new_points_or_box(state, index, 1, box=prompt.box, **points)
        for index, _, values in model.propagate_in_video(state, start_frame_idx=min(prompts), reverse=down):
            logits[index] = values[0, 0].numpy()
    return logits


def main():
    """Record."""
    model = predictor(weights())
    slices = Slices(volume(), "axial")
    frames = tensors_of(slices)
    np.savez_compressed(
        RECORDED, **{name: reference(model, frames, slices.size, prompts) for name, prompts in cases().items()}
    )


if __name__ == "__main__":
    main()
