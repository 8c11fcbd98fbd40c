"""The families that are tested: tiny models with random weights and a vocabulary of a few hundred tokens."""

import importlib.util

import dense_families
import more_families
import qwen_families
import torch
import transformers as t

import medground

NAMES = {
    qwen_families: ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen4_exp"),
    dense_families: ("internvl", "gemma3", "gemma4", "glm4v", "glm46v", "smolvlm", "idefics3"),
    more_families: ("molmo2", "lfm2_vl", "minicpmv4_6", "mistral3", "paligemma", "llava_onevision", "kimi_k25"),
}
BUILDERS = {name: getattr(module, name) for module, names in NAMES.items() for name in names}
NEWER = {
    "qwen4_exp": "Qwen4ExpConfig",
    "molmo2": "Molmo2Config",
    "kimi_k25": "Kimi_K25Config",
    "gemma4": "Gemma4Config",
}
"""What an older transformers lacks."""
PACKAGES = {"smolvlm": "num2words"}
"""What a processor imports beside transformers."""
SOUND = {"qwen4_exp": (5, 23)}
"""Versions of transformers before which a family indexes beyond its tokens."""


def why_not(name):
    """Return why a family cannot be built here, None if it can."""
    if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
        return f"its processor imports the package {PACKAGES[name]}"
    if name in NEWER and not hasattr(t, NEWER[name]):
        return f"transformers {t.__version__} does not have it"
    if tuple(map(int, t.__version__.split(".")[:2])) < SOUND.get(name, (0,)):
        return f"transformers {t.__version__} indexes beyond its tokens"
    return None


WARNINGS = (
    "ignore:__array__ implementation:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
)
"""Those of processors beside numpy 2, and of peft beside transformers."""
SPARE = 24
"""Rows of the embedding beyond the tokenizer's ids, as released checkpoints have them."""
NAMED = ("qwen2_5_vl", "qwen3_vl")
"""Families with a reasoner of their own, which knows what their numbers count."""


def write(name, folder):
    """Write a checkpoint in the released layout."""
    torch.manual_seed(0)
    model, kit = BUILDERS[name]()
    if name != "molmo2":  # its head knows no special token, and has no row too many
        model.resize_token_embeddings(len(kit.tokenizer) + SPARE, mean_resizing=False)
    for parameter in model.parameters():  # some families start biases and scales at 0 or 1 only: let all matter
        if parameter.dim() == 1:
            parameter.data += 0.02 * torch.randn_like(parameter)
    model.eval().save_pretrained(folder)
    kit.save_pretrained(folder)


def section(name, folder, **more):
    """Return the section of a recipe that opens a family: by its own reasoner, else by `hf_vlm` with its frame declared."""
    opened_by = {"name": name} if name in NAMED else {"name": "hf_vlm", "frame": "permille"}
    return {**opened_by, "checkpoint": str(folder), "dtype": "float32", "device": "cpu", **more}


def reasoner(name, folder, **more):
    """Open a family as recipes do."""
    arguments = section(name, folder, **more)
    return medground.build("reasoner", arguments.pop("name"), **arguments)
