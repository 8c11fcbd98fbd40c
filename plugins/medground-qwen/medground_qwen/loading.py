"""Loading released checkpoints: safetensors, processor, chat template; nothing in a checkpoint runs."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from medground.errors import InputError, RecipeError

_UNLOADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers raises for folders that are not what they say."""
MOST = 240
"""Characters that are shown of an error of another library."""


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
        return model.to(device).eval(), processor
    except RuntimeError as error:  # most often there is not enough memory
        raise RecipeError(
            f"{folder.name} cannot be put on {device}: {_told(error)}", hint="write device: cpu"
        ) from error


def _model(folder: Path, dtype: str, attention: str) -> Any:
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of weights that do not fit becomes a sentence below
    try:
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
    except _UNLOADABLE as error:
        raise _unloadable(folder, "its model", error) from error
    finally:
        logging.set_verbosity(before)
    if misfits := sorted(report["mismatched_keys"]):
        name, here, wanted = misfits[0]
        shapes = f"{list(here)} where its config.json means {list(wanted)}"
        raise InputError(
            f"{folder.name} has the weight {name} in shape {shapes}", hint="compare it with the released one"
        )
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{folder.name} lacks {len(missing)} of the model's weights, such as {missing[0]}",
            hint="copy or fetch it again",
        )
    return model


def _processor(folder: Path) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
            raise InputError(f"{folder.name} has no processor of images and text", hint="use a vision-language model")
        if not processor.chat_template:
            raise InputError(
                f"{folder.name} has no chat template",
                hint="copy chat_template.jinja from the released checkpoint, beside config.json",
            )
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
        processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise _unloadable(folder, "its chat template", error) from error
    except _UNLOADABLE as error:
        raise _unloadable(folder, "its processor", error) from error
    return processor


def _unloadable(folder: Path, what: str, error: Exception) -> InputError:
    return InputError(
        f"{folder.name} cannot be loaded, {what}: {_told(error)}", hint="compare its files with the released ones"
    )


def _told(error: Exception) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())[:MOST] or type(error).__name__
