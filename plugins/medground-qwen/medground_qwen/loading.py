"""Loading released checkpoints: safetensors, processor, chat template; nothing in a checkpoint runs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from medground.errors import InputError, RecipeError
from medground.geometry import Size
from medground.segmenters.bounded import try_tokenizer
from medground.segmenters.weight_files import AGAIN, read_header, refusing
from medground.segmenters.weights import check_finite, holdings, some
from medground.types import Messages, Sampling
from medground_qwen.reasoner import VisionLanguageReasoner

TRIED = ((300, 200), (64, 400))
"""Sizes of the images that a processor is tried on, (H, W)."""
MOST_MISSING = 2**24
"""Weights that may be missing, and a quarter of the model: which ones is said once it is loaded."""
MOST_BUFFERS = 2**28
"""Elements of the tables that a model computes for itself: positions and masks."""


def load(folder: Path, *, dtype: str, device: str, attention: str) -> tuple[Any, Any]:
    """Return a model in eval mode on a device, and its processor.

    Args:
        folder: as `medground_qwen.checkpoint.locate` finds it.
        dtype: ``auto`` for the stored one.
        device: as `medground.devices.device_of` gives it.
        attention: an attention implementation of transformers.

    Raises:
        InputError: if the folder's files do not make a model and a processor with a chat template.
        RecipeError: if the model does not fit on the device, or cannot compute there as asked.
    """
    logging.disable_progress_bar()  # the command line shows its own
    processor = _processor(folder)
    model = _model(folder, dtype, attention)
    if attention == "flash_attention_2" and model.dtype.itemsize != 2:
        raise RecipeError(f"attention: {attention} does not compute in {model.dtype}", hint="write dtype: bfloat16")
    try:
        model = model.to(device).eval()
    except RuntimeError as error:  # most often there is not enough memory
        reason = " ".join(str(error).split())[:240]
        raise RecipeError(f"{folder.name} cannot be put on {device}: {reason}", hint="write device: cpu") from error
    check_finite(model.state_dict().items(), f"{folder.name} in {model.dtype}")
    return model, processor


def check_answer(reasoner: VisionLanguageReasoner, folder: Path) -> None:
    """Stop at a checkpoint whose files do not fit together: the reasoner reads images and writes one token.

    Raises:
        InputError: naming the folder.
        RecipeError: if there is not enough memory for it.
    """
    sampling = Sampling(num_generations=1, max_completion_length=1, temperature=0.0)
    with refusing(f"{folder.name} cannot answer"):
        for size in TRIED:
            reasoner.encode(_question(size))
        try:
            ((completion,),) = reasoner.generate([_question((32, 32))], sampling)
        except torch.OutOfMemoryError as error:
            raise RecipeError(f"{folder.name} has no memory to compute in", hint="write device: cpu") from error
    if completion.logprobs is None or not np.isfinite(completion.logprobs).all():
        raise InputError(f"{folder.name} computes NaN", hint="write dtype: float32, or fetch it again")


def _question(size: Size) -> Messages:
    image = {"type": "image", "image": np.zeros((*size, 3), np.uint8)}
    return [{"role": "user", "content": [image, {"type": "text", "text": "Where?"}]}]


def _model(folder: Path, dtype: str, attention: str) -> Any:
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of weights that do not fit becomes a sentence below
    try:
        with refusing(f"{folder.name} cannot be loaded, its model"):
            _check_size(folder)
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    finally:
        logging.set_verbosity(before)
    if misfits := sorted(report["mismatched_keys"]):
        name, here, wanted = misfits[0]
        shapes = f"{list(here)} where its config.json means {list(wanted)}"
        raise InputError(
            f"{folder.name} has the weight {name} in shape {shapes}", hint="compare it with the released one"
        )
    missing, strange = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or strange:
        lacks = [f"lacks {len(missing)} of the model's weights, such as {some(missing)}"] if missing else []
        holds = [f"holds {len(strange)} that the model does not have, such as {some(strange)}"] if strange else []
        raise InputError(f"{folder.name} {' and '.join(lacks + holds)}", hint=AGAIN)
    return model


def _check_size(folder: Path) -> None:
    """Stop where config.json means a far larger model than the files hold, before memory is taken for it."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    text = config.get_text_config()
    rotary = getattr(text, "rope_parameters", None) or {}
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if (sections := rotary.get("mrope_section")) and 2 * sum(sections) > head:
        raise InputError(f"{folder.name} has mrope_section: {sections} in heads of {head}", hint=AGAIN)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    meant = sum(parameter.numel() for parameter in model.parameters())
    shapes = {name: shape for file in folder.glob("*.safetensors") for name, shape in read_header(file).items()}
    stored = sum(int(np.prod(shape, dtype=object)) for shape in shapes.values())
    if meant > stored * 1.25 + MOST_MISSING or sum(buffer.numel() for buffer in model.buffers()) > MOST_BUFFERS:
        raise InputError(
            f"{folder.name} lacks weights: its config.json means a model of {meant:,}, the files hold {stored:,}; "
            f"they hold {holdings(shapes)}",
            hint=AGAIN,
        )


def _processor(folder: Path) -> Any:
    with refusing(f"{folder.name} cannot be loaded, its processor"):
        try_tokenizer(folder)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise InputError(f"{folder.name} has no processor of images and text", hint="use a vision-language model")
    if not processor.chat_template:
        raise InputError(
            f"{folder.name} has no chat template",
            hint="copy chat_template.jinja from the released checkpoint, beside config.json",
        )
    return processor
