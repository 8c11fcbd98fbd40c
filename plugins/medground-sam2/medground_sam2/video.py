"""The video models of transformers: an encoder of slices, and sessions that follow one target one way.

Shape legend: S input size, h x w low resolution, L positions of a map, C channels. transformers' own session keeps videos,
tables of positions and what nobody reads again; here a session is given the features of the slice it is at, and forgets.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F

from medground.devices import dtype_of
from medground.segmenters.weights import frozen

Features = list[torch.Tensor]
"""Three maps ``[L, 1, C]`` of strides 4, 8 and 16."""
OBJECT = 0
"""A session has one."""


class VideoNetwork:
    """A frozen video model whose encoder computes in `dtype`, and the rest in float32.

    Args:
        model: transformers' Sam2VideoModel, or another that is called like it.
        encoder: shared with the model for single images, in place of the model's own; None keeps that.
        device: where it runs.
        dtype: of the encoder, by autocast.
    """

    def __init__(self, model: torch.nn.Module, encoder: torch.nn.Module | None, *, device: str, dtype: str) -> None:
        self.model: Any = model
        if encoder is not None:
            self.model.vision_encoder = encoder
        frozen(self.model, device=device, dtype="float32")
        faithful(self.model)
        self.device = device
        self._dtype = dtype_of(dtype)
        self.positions: torch.Tensor | None = None
        """The table of positions of the coarsest map ``[L, 1, C]``, the only one that is read; of any slice."""

    def encode(self, pixels: torch.Tensor) -> Features:
        """Return the maps of a slice ``[3, S, S]``."""
        with torch.autocast(torch.device(self.device).type, self._dtype, enabled=self._dtype is not torch.float32):
            output = self.model.get_image_features(pixels[None], return_dict=True)
        self.positions = output.fpn_position_encoding[-1].float()
        return [level.to(self._dtype) for level in output.fpn_hidden_states]

    def begin(self, count: int) -> "Session":
        """Return a session for one target in a volume of `count` slices."""
        return Session(self, count)


class Session:
    """One target, followed one way. Give all its prompts first, then its slices in order."""

    def __init__(self, network: VideoNetwork, count: int) -> None:
        self.network, self.count = network, count
        module = import_module(type(network.model).__module__)
        self.state: Any = getattr(module, type(network.model).__name__.removesuffix("Model") + "InferenceSession")(
            inference_device=network.device, inference_state_device=network.device, dtype=torch.float32
        )
        self.state.processed_frames = dict.fromkeys(range(count))  # counted, never read
        self.state.cache = self
        self.state.obj_id_to_idx(OBJECT)
        self._features: Features = []

    @property
    def outputs(self) -> dict[str, dict[int, dict[str, torch.Tensor]]]:
        """What the model keeps: of key slices (``cond_frame_outputs``) and of others (``non_cond_frame_outputs``)."""
        outputs: dict[str, dict[int, dict[str, torch.Tensor]]] = self.state.output_dict_per_obj[OBJECT]
        return outputs

    def get_vision_features(self, frame_idx: int) -> dict[str, Any]:
        """Return the features of the slice the session is at; the model asks for them."""
        return {
            "vision_feats": [level.float() for level in self._features],
            "vision_pos_embeds": [self.network.positions],
        }

    def prompt(
        self, index: int, features: Features, prompt: "tuple[torch.Tensor, torch.Tensor] | torch.Tensor"
    ) -> None:
        """Tell where the target is on a key slice.

        Args:
            index: of the slice.
            features: of it.
            prompt: points ``[1, K, 2]`` in pixels of the input with their labels ``[1, K]``, or a mask ``[S, S]`` of 0 and 1.
        """
        if isinstance(prompt, torch.Tensor):
            self.state.add_mask_inputs(OBJECT, index, prompt[None, None])
        else:
            points, labels = prompt
            self.state.add_point_inputs(OBJECT, index, {"point_coords": points[None], "point_labels": labels[None]})
        self.state.obj_with_new_inputs = [OBJECT]
        self._run(index, features, down=False)
        self.outputs["cond_frame_outputs"][index].pop("high_res_masks", None)

    def turned(self) -> "Session":
        """Return a session that knows the key slices of this one, and nothing else."""
        other = Session(self.network, self.count)
        other.outputs["cond_frame_outputs"] |= self.outputs["cond_frame_outputs"]
        return other

    def logits(self, index: int, features: Callable[[], Features], *, down: bool) -> torch.Tensor:
        """Return the target on a slice ``[h, w]``; `features` of it are asked for unless it is a key slice."""
        key = self.outputs["cond_frame_outputs"].get(index)
        if key is not None:
            return key["pred_masks"][0, 0].float()
        low: torch.Tensor = self._run(index, features(), down=down)[0, 0]
        self._forget(index, -1 if down else 1)
        return low.float()

    def _run(self, index: int, features: Features, *, down: bool) -> torch.Tensor:
        self._features = features
        masks: torch.Tensor = self.network.model(self.state, frame_idx=index, reverse=down).pred_masks
        self._features = []
        return masks

    def _forget(self, index: int, turn: int) -> None:
        """Drop what the next slices do not read: masks at once, memories and object pointers when they are out of reach."""
        slices, config = self.outputs["non_cond_frame_outputs"], self.network.model.config
        for name in ("high_res_masks", "pred_masks", "object_score_logits"):
            slices[index].pop(name, None)
        for name in ("maskmem_features", "maskmem_pos_enc"):
            slices.get(index - turn * (config.num_maskmem - 1), {}).pop(name, None)
        slices.pop(index - turn * (config.max_object_pointers_in_encoder - 1), None)


def faithful(model: Any) -> None:
    """Make a model treat a mask on a key slice as Meta's code does, in the two points where transformers departs from it.

    Meta takes the object pointer from the first mask token, transformers from the best of three; Meta encodes the memory
    from the low-resolution mask enlarged, transformers from the mask given. Each alone moves logits by up to 1.7e-3.
    """
    single, use_mask = model._single_frame_forward, model._use_mask_as_output

    def single_frame_forward(*arguments: Any, **named: Any) -> Any:
        if named.get("input_masks") is not None and named.get("input_points") is None:
            named.setdefault("multimask_output", False)
        return single(*arguments, **named)

    def use_mask_as_output(*arguments: Any, **named: Any) -> Any:
        output = use_mask(*arguments, **named)
        size = output.high_res_masks.shape[-2:]
        output.high_res_masks = F.interpolate(output.pred_masks, size, mode="bilinear", align_corners=False)
        return output

    model._single_frame_forward, model._use_mask_as_output = single_frame_forward, use_mask_as_output


def to_input(mask: torch.Tensor, side: int) -> torch.Tensor:
    """Return a mask ``[H, W]`` as the model takes it, ``[S, S]`` of 0 and 1: stretched and cut at one half."""
    square = F.interpolate(mask[None, None].float(), (side, side), mode="bilinear", align_corners=False, antialias=True)
    return (square[0, 0] >= 0.5).float()
