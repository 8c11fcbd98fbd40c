"""Meta's own modules from the package sam2."""

from importlib.resources import files

import torch

from medground.errors import PluginError
from medground.segmenters.weights import check_keys
from medground_sam2.checkpoint import Checkpoint
from medground_sam2.layout import Architecture, without_video
from medground_sam2.networks import Features, Network


class OfficialNetwork(Network):
    """Meta's modules from the package sam2, driven as its SAM2ImagePredictor drives them.

    The predictor itself is not used: its feature sizes are written for inputs of 1024 pixels, and it decodes one image
    at a time.
    """

    encoder = "image_encoder"

    def _encode(self, pixels: torch.Tensor) -> Features:
        features: Features = list(self.model.forward_image(pixels)["backbone_fpn"])
        features[-1] = features[-1] + self.model.no_mem_embed.reshape(1, -1, 1, 1)
        return features

    def decode(
        self, features: Features, points: torch.Tensor, labels: torch.Tensor, *, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Network.decode`."""
        sparse, dense = self.model.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
        logits, scores, _, _ = self.model.sam_mask_decoder(
            image_embeddings=features[-1],
            image_pe=self.model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=len(features[-1]) == 1,
            high_res_features=features[:-1],
        )
        return logits, scores


def load_official(checkpoint: Checkpoint, sizes: Architecture, image_size: int) -> torch.nn.Module:
    """Return Meta's SAM2Base with exactly the checkpoint's tensors, whatever its layout."""
    model = official_model(sizes, image_size)
    state = model.state_dict()
    original = checkpoint.original
    check_keys({name: tuple(state[name].shape) for name in without_video(state)}, original, checkpoint.source)
    model.load_state_dict(state | original, strict=True)
    return model


def official_model(sizes: Architecture, image_size: int) -> torch.nn.Module:
    """Return Meta's SAM2Base of these sizes with random weights, without the parts that only track through video.

    The published configuration of the tiny model is read as a file and changed: Hydra's global state is neither used
    nor touched. As in Meta's ``build_sam2``, a single mask of stability below 0.98 gives way to the best of three.

    Raises:
        PluginError: if the package sam2 is not installed.
    """
    try:
        from hydra.utils import instantiate
        from omegaconf import OmegaConf

        published = files("sam2").joinpath("configs/sam2.1/sam2.1_hiera_t.yaml")
    except ImportError as error:
        raise PluginError(
            f"backend 'official' of the SAM 2 segmenters needs the package sam2: {error}",
            hint="pip install 'medground[sam2-official]', or use backend: transformers",
        ) from error
    changes = {
        "image_size": image_size,
        "image_encoder": {
            "trunk": {
                "embed_dim": sizes.widths[0],
                "num_heads": sizes.heads[0],
                "stages": list(sizes.stages),
                "q_pool": sizes.levels - 1,
                "window_spec": list(sizes.windows),
                "global_att_blocks": list(sizes.global_blocks),
                "window_pos_embed_bkg_spatial_size": list(sizes.background),
            },
            "neck": {
                "d_model": sizes.hidden,
                "backbone_channel_list": list(reversed(sizes.widths)),
                "position_encoding": {"num_pos_feats": sizes.hidden},
            },
        },
        "memory_attention": None,
        "memory_encoder": None,
        "sam_mask_decoder_extra_args": {
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
    }
    config = OmegaConf.merge(OmegaConf.create(published.read_text()).model, changes)
    model: torch.nn.Module = instantiate(config, _recursive_=True)
    return model
