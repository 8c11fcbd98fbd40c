"""Calculate the saving of a shared prompt for large models from their published sizes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A Qwen2.5-VL; linear cost 2 FLOPs a parameter and token, attention 4 a head channel and visible pair."""

    linear: float
    """Parameters of the language model's layers."""
    head: float
    """Parameters of the vocabulary projection."""
    width: int
    layers: int


BIG = {
    "Qwen2.5-VL-7B": Sizes(linear=6.53e9, head=0.545e9, width=28 * 128, layers=28),
    "Qwen2.5-VL-3B": Sizes(linear=2.78e9, head=0.311e9, width=16 * 128, layers=36),
}
TOWER, TOWER_WIDTH, TOWER_FULL, TOWER_WINDOWED, WINDOW = 0.63e9, 1280, 4, 28, 64
"""The vision tower, the same in both: parameters, width, blocks with full and with windowed attention, patches a window."""


def tower(visual: int) -> float:
    """FLOPs of one image's forward pass through the vision tower, `visual` tokens of four patches each."""
    patches = 4 * visual
    attention = 4 * TOWER_WIDTH * patches * (TOWER_FULL * patches + TOWER_WINDOWED * WINDOW)
    return 2 * TOWER * patches + attention


def language(sizes: Sizes, prompt: int, completion: int, group: int, *, share: bool) -> float:
    """FLOPs of one group's forward pass through the language model, logits of the completions included."""
    whole = prompt + completion
    if share:
        tokens = prompt + group * completion
        pairs = prompt**2 / 2 + group * completion * (prompt + completion / 2)
    else:
        tokens, pairs = group * whole, group * whole**2 / 2
    logits = 2 * sizes.head * group * completion
    return 2 * sizes.linear * tokens + 4 * sizes.width * sizes.layers * pairs + logits


def update_ratio(sizes: Sizes, *, visual: int, text: int, completion: int, group: int, vision: bool) -> float:
    """How many times fewer FLOPs an update (forward and backward) makes with a shared prompt.

    A frozen tower (`vision` false) has a forward pass only.
    """
    passes = 3 if vision else 1
    prompt = visual + text
    apart = 3 * language(sizes, prompt, completion, group, share=False) + passes * group * tower(visual)
    shared = 3 * language(sizes, prompt, completion, group, share=True) + passes * tower(visual)
    return apart / shared
