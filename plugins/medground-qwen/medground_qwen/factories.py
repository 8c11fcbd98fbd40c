"""What recipes name: the reasoners of this plugin."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from medground.arguments import AtLeast, Count, Positive
from medground.devices import Device, Dtype, device_of, require_modules
from medground.frames import Kind, Order
from medground.hookspecs import Factory
from medground.licences import Published, Terms, stated
from medground.segmenters import bounded
from medground.segmenters.weight_files import refusing
from medground_qwen.adapters import check_stated
from medground_qwen.checkpoint import Attention, check_adapter, check_attention, locate
from medground_qwen.families import QWEN2_5_VL, QWEN3_VL, Family, any_family

if TYPE_CHECKING:
    from medground_qwen.reasoner import VisionLanguageReasoner


def reasoner(
    family: Family,
    /,
    *,
    checkpoint: str,
    revision: str | None = None,
    dtype: Literal["auto"] | Dtype = "auto",
    device: Device = "auto",
    attention: Attention = "sdpa",
    max_pixels: Count | None = None,
    share: bool = True,
    lora_rank: Annotated[int, AtLeast(0)] = 0,
    lora_alpha: Positive | None = None,
    adapter: str | None = None,
    train_vision: bool = False,
    gradient_checkpointing: bool = False,
    logprob_chunk: Count = 1024,
    rows_at_once: Count = 256,
) -> "VisionLanguageReasoner":
    """A released vision-language checkpoint as a reasoner.

    Args:
        family: which pixels its numbers count.
        checkpoint: a folder in the released layout, or a hub id that ``medground fetch`` has put in the local cache.
        revision: a commit of the hub repository.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ..., ``mps``.
        attention: an attention implementation of transformers; ``flash_attention_2`` needs the package flash-attn, CUDA and a
            dtype of 16 bits.
        max_pixels: a smaller image limit than the processor's own, px² of the resized image.
        share: compute image and prompt once per group in the update.
        lora_rank: train a LoRA adapter of this rank; 0 trains the weights themselves.
        lora_alpha: LoRA scale; twice the rank if None.
        adapter: a folder with a LoRA adapter to start from, as a run saves it; `lora_rank`, `lora_alpha` and `train_vision`
            must be what it has, where they are given.
        train_vision: train the vision tower and its merger too.
        gradient_checkpointing: trade compute for activation memory.
        logprob_chunk: positions whose logits are held at a time.
        rows_at_once: completions decoded together.
    """
    require_modules("torch", "transformers", "safetensors", *(["peft"] if lora_rank or adapter else []))
    folder = locate(checkpoint, family, revision)
    if adapter is not None:
        check_adapter(adapter)
        check_stated(adapter, lora_rank, lora_alpha)
    check_attention(attention, device, dtype)
    there = device_of(device)
    check_attention(attention, there, dtype)  # again, now that it is known what auto means

    bounded.start()  # while torch is imported

    from medground_qwen.loading import check_answer, load
    from medground_qwen.reasoner import VisionLanguageReasoner
    from medground_qwen.trainable import choose_trainable

    model, processor = load(folder, dtype=dtype, device=there, attention=attention)
    choose_trainable(
        model,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        adapter=adapter,
        train_vision=train_vision,
        gradient_checkpointing=gradient_checkpointing,
    )
    with refusing(f"{folder.name} cannot be a reasoner"):
        built = VisionLanguageReasoner(
            model,
            processor,
            family,
            share=share,
            max_pixels=max_pixels,
            logprob_chunk=logprob_chunk,
            rows_at_once=rows_at_once,
        )
    check_answer(built, folder)
    return built


def _of(family: Family, summary: str, *published: Published) -> Factory:
    """Return `reasoner` of one family, which says what it is, which weights it loads and how it marks regions."""
    factory = partial(reasoner, family)
    # The dialect is known before any weights are loaded.
    vars(factory).update(__doc__=summary, published=published, dialect="qwen")
    return factory


qwen2_5_vl = _of(
    QWEN2_5_VL,
    "Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923).",
    Published("Qwen/Qwen2.5-VL-7B-Instruct", stated("Apache-2.0")),
    Published("Qwen/Qwen2.5-VL-3B-Instruct", Terms(licence="Qwen Research License", commercial=False)),
    Published(
        "Qwen/Qwen2.5-VL-72B-Instruct",
        Terms(licence="Qwen License", commercial=None, note="read its terms before commercial use"),
    ),
)
_DISCLAIMER = "its model page adds a disclaimer of its own"
lingshu = _of(
    QWEN2_5_VL,
    "Lingshu, a medical model with the architecture of Qwen2.5-VL.",
    Published("lingshu-medical-mllm/Lingshu-7B", stated("MIT", _DISCLAIMER)),
    Published("lingshu-medical-mllm/Lingshu-32B", stated("MIT", _DISCLAIMER)),
)
qwen3_vl = _of(QWEN3_VL, "Qwen3-VL.", Published("Qwen/Qwen3-VL-8B-Instruct", stated("Apache-2.0")))


_TOY_VLM = Published(str(Path(__file__).with_name("toy_vlm")), stated("Apache-2.0"))


def toy_vlm(
    *, checkpoint: str | None = None, device: Device = "auto", train_vision: bool = True
) -> "VisionLanguageReasoner":
    """A Qwen3-VL of 0.7 M parameters that comes with the package, taught on drawn phantoms only: for demonstrations.

    It wants the prompt interface ``bbox`` with ``instructions: false``.

    Args:
        checkpoint: another of its kind, as training writes it; the one of the package if None.
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ..., ``mps``.
        train_vision: train the vision tower and its merger too.
    """
    folder = _TOY_VLM.id if checkpoint is None else checkpoint
    return reasoner(QWEN3_VL, checkpoint=folder, dtype="float32", device=device, train_vision=train_vision)


vars(toy_vlm).update(published=(_TOY_VLM,))


def hf_vlm(
    *,
    checkpoint: str,
    frame: Kind,
    order: Order = "xy",
    dialect: str | None = None,
    revision: str | None = None,
    dtype: Literal["auto"] | Dtype = "auto",
    device: Device = "auto",
    attention: Attention = "sdpa",
    share: bool = True,
    lora_rank: Annotated[int, AtLeast(0)] = 0,
    lora_alpha: Positive | None = None,
    adapter: str | None = None,
    train_vision: bool = False,
    gradient_checkpointing: bool = False,
    logprob_chunk: Count = 1024,
    rows_at_once: Count = 256,
) -> "VisionLanguageReasoner":
    """Any other image-text-to-text model of transformers (InternVL, Gemma 3, Qwen3.5, ...).

    Args:
        frame: what its numbers count: ``permille``, ``unit``, or ``pixel`` of the resized image (of the image as given
            where its processor cuts tiles or squares).
        order: ``xy``, or ``yx`` where it writes y first.
        dialect: its native way of marking regions, for prompt interfaces with ``style: native``; see `docs/prompts.md`.
        checkpoint: a folder in the released layout, or a hub id that ``medground fetch`` has put in the local cache.
        revision: a commit of the hub repository.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ..., ``mps``.
        attention: an attention implementation of transformers; ``flash_attention_2`` needs the package flash-attn, CUDA
            and a dtype of 16 bits.
        share: compute image and prompt once per group in the update.
        lora_rank: train a LoRA adapter of this rank; 0 trains the weights themselves.
        lora_alpha: LoRA scale; twice the rank if None.
        adapter: a folder with a LoRA adapter to start from, as a run saves it.
        train_vision: train the vision tower and its merger too.
        gradient_checkpointing: trade compute for activation memory.
        logprob_chunk: positions whose logits are held at a time.
        rows_at_once: completions decoded together.
    """
    arguments = dict(locals())
    family = any_family(arguments.pop("frame"), arguments.pop("order"), arguments.pop("dialect"))
    return reasoner(family, **arguments)
