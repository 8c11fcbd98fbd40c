"""LoRA on a model of transformers, through peft's own functions.

transformers has calls for adapters too, but each release of it refuses some releases of peft there.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medground.errors import InputError, RecipeError
from medground.segmenters.weight_files import read_json
from medground.segmenters.weights import check_finite, check_keys, holdings, read_weights, some

FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft's own wrapper puts before the names of a model's parameters, and so before those in the file."""
MOST_RANK = 4096
EXTENSIONS = (
    "use_dora", "use_qalora", "use_bdlora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices",
    "target_parameters", "lora_bias", "layer_replication", "megatron_config", "arrow_config", "alora_invocation_tokens",
    "kasa_config", "monteclora_config", "velora_config", "fan_in_fan_out",
)  # fmt: skip
"""Settings of peft that change what an adapter computes beyond two factors and a scale."""
OURS = "give the adapter of this checkpoint, as a run saves it"


def has_adapter(model: Any) -> bool:
    """Return True if the model has a LoRA adapter."""
    return hasattr(model, "peft_config")


def add_adapter(model: Any, targets: Sequence[str], *, rank: int, alpha: float | None) -> None:
    """Put a new adapter on the modules named `targets`; it changes nothing yet, for its second factor is zero."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,  # type: ignore[arg-type]  # peft divides it by the rank, a fraction is well
        target_modules=list(targets),
        lora_dropout=0.0,
        base_model_name_or_path=model.name_or_path,
    )
    inject_adapter_in_model(config, model)


def load_adapter(model: Any, folder: str, *, train: bool) -> list[str]:
    """Put the adapter in `folder` on the model, to go on training or frozen; return the names of the layers it adapts.

    Which layers it adapts is read from its tensors; its configuration must agree with them.

    Raises:
        InputError: if it is the adapter of another model, is no plain LoRA, or its files do not agree.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    stated = read_adapter_settings(folder)
    weights = {name.removeprefix(PREFIX): value for name, value in read_weights(Path(folder, FILE)).items()}
    targets = _targets(model, weights, folder, stated.rank)
    if stated.targets is not None and (
        strange := sorted(target for target in targets if not _named(target, stated.targets))
    ):
        raise InputError(f"{folder} adapts {some(strange)}, which its target_modules do not name", hint=OURS)
    check_finite(weights.items(), folder)
    config = LoraConfig(
        r=stated.rank,
        lora_alpha=stated.alpha,  # type: ignore[arg-type]  # as in `add_adapter`
        use_rslora=stated.rank_stabilized,
        target_modules=targets,
        lora_dropout=0.0,
        base_model_name_or_path=model.name_or_path,
        inference_mode=not train,
    )
    inject_adapter_in_model(config, model)
    result = set_peft_model_state_dict(model, weights)
    if left := [*result.unexpected_keys, *(name for name in result.missing_keys if ".lora_" in name)]:
        raise InputError(f"{folder} is no adapter of this model: {some(left)} is in one of them only", hint=OURS)
    return targets


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """What the configuration of an adapter says."""

    rank: int
    alpha: float
    rank_stabilized: bool
    """Whether the scale is alpha / sqrt(rank) instead of alpha / rank."""
    targets: list[str] | None
    """Ends of the names of the layers; None where it gives a pattern."""


def read_adapter_settings(folder: str) -> AdapterSettings:
    """Return what an adapter's configuration says; imports neither torch nor peft.

    Raises:
        InputError: if it is no configuration of a plain LoRA.
    """
    path = Path(folder, "adapter_config.json")
    settings = read_json(path)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise InputError(f"{path} is no configuration of a LoRA adapter", hint=OURS)
    rank, alpha, targets = settings.get("r"), settings.get("lora_alpha"), settings.get("target_modules")
    if type(rank) is not int or not 1 <= rank <= MOST_RANK:
        raise InputError(f"{path} has r: {str(rank)[:40]}, which is no rank", hint=OURS)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 2**20:
        raise InputError(f"{path} has lora_alpha: {str(alpha)[:40]}, which is no scale", hint=OURS)
    more = sorted(key for key in EXTENSIONS if settings.get(key))
    if settings.get("init_lora_weights") not in (None, True, False, "gaussian"):
        more.append("init_lora_weights")  # some change the base
    if more:
        raise InputError(
            f"{path} has {some(more)}, which is more than a plain LoRA", hint="merge it into its base with peft"
        )
    if not isinstance(targets, str) and not (
        isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    ):
        raise InputError(f"{path} has target_modules: {str(targets)[:40]}", hint=OURS)
    return AdapterSettings(
        rank=rank,
        alpha=alpha,
        rank_stabilized=settings.get("use_rslora") is True,
        targets=targets if isinstance(targets, list) else None,
    )


def check_stated(folder: str, rank: int, alpha: float | None) -> None:
    """Stop where a recipe says another rank or scale than the adapter in `folder` has.

    Args:
        folder: the adapter.
        rank: 0 where it does not train.
        alpha: None where the recipe does not say.

    Raises:
        RecipeError: naming both.
        InputError: as `read_adapter_settings`.
    """
    stated = read_adapter_settings(folder)
    frozen = ", or lora_rank: 0 to leave it as it is"
    if rank not in (0, stated.rank):
        hint = f"write lora_rank: {stated.rank}{frozen}"
        raise RecipeError(f"lora_rank: {rank} is not the rank of the adapter {folder}: {stated.rank}", hint=hint)
    if alpha not in (None, stated.alpha):
        hint = f"write lora_alpha: {stated.alpha:g}, or leave it out"
        raise RecipeError(f"lora_alpha: {alpha:g} is not the one of the adapter {folder}: {stated.alpha:g}", hint=hint)


def _targets(model: Any, weights: Mapping[str, Any], folder: str, rank: int) -> list[str]:
    """Return the layers that an adapter's tensors belong to: both factors of each, of the shapes that the model has."""
    from torch.nn import Linear

    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    targets = sorted({name.rpartition(".lora_")[0] for name in weights})
    strange = [target or "no layer" for target in targets or [""] if target not in layers]
    if strange:
        raise InputError(
            f"{folder} is no adapter of this model: it adapts {some(strange)}; the model has {holdings(layers)}",
            hint=OURS,
        )
    shapes = {
        f"{target}.lora_{factor}.weight": shape
        for target in targets
        for factor, shape in (("A", (rank, layers[target].in_features)), ("B", (layers[target].out_features, rank)))
    }
    check_keys(shapes, weights, f"the adapter {folder}")
    return targets


def _named(target: str, ends: Sequence[str]) -> bool:
    """Return True if peft takes a layer of the name `target` for one of those named."""
    return any(f".{target}".endswith(f".{end}") for end in ends) or "all-linear" in ends


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter alone, as peft and transformers load it."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # Embeddings are never adapted here; asked to find out by itself, peft would look for the base model on the hub.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{PREFIX}{name}": value.detach().contiguous() for name, value in weights.items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    model.peft_config["default"].save_pretrained(folder)


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Compute as the model without its adapter does; afterwards the adapter trains again."""
    layers = [module for _, module in _layers(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge_adapter(model: Any) -> None:
    """Fold the adapter into the weights, and leave the model as if it had never had one."""
    for name, layer in _layers(model):
        layer.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    del model.peft_config


def _layers(model: Any) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
