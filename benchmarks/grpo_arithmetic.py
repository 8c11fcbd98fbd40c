"""Calculate the saving of a shared prompt, and of a shared image, for models from their sizes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """The vision tower of a Qwen2.5-VL."""

    linear: float
    """Parameters that work on each patch; those that work on four merged ones count a quarter."""
    width: int
    full: int
    """Blocks with full attention."""
    windowed: int
    """Blocks with attention in windows."""
    window: int
    """Patches of a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A Qwen2.5-VL; linear cost 2 FLOPs a parameter and token, attention 4 a head channel and visible pair."""

    linear: float
    """Parameters of the language model's layers."""
    head: float
    """Parameters of the vocabulary projection."""
    width: int
    layers: int
    tower: Tower


TOWER = Tower(linear=0.63e9, width=1280, full=4, windowed=28, window=64)
"""Of the 3B and the 7B model."""
BIG = {
    "Qwen2.5-VL-7B": Sizes(linear=6.53e9, head=0.545e9, width=28 * 128, layers=28, tower=TOWER),
    "Qwen2.5-VL-3B": Sizes(linear=2.78e9, head=0.311e9, width=16 * 128, layers=36, tower=TOWER),
}


def tower(sizes: Tower, visual: int) -> float:
    """FLOPs of one image's forward pass through the vision tower, `visual` tokens of four patches each."""
    patches = 4 * visual
    attention = 4 * sizes.width * patches * (sizes.full * patches + sizes.windowed * min(sizes.window, patches))
    return 2 * sizes.linear * patches + attention


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
    apart = 3 * language(sizes, prompt, completion, group, share=False) + passes * group * tower(sizes.tower, visual)
    shared = 3 * language(sizes, prompt, completion, group, share=True) + passes * tower(sizes.tower, visual)
    return apart / shared


def tree_ratio(
    sizes: Sizes, *, visual: int, text: int, completion: int, group: int, questions: int, vision: bool
) -> float:
    """How many times fewer FLOPs an update makes with an image computed once for its questions than with repeated rows."""
    passes, prompt, rows = 3 if vision else 1, visual + text, questions * group
    apart = 3 * questions * language(sizes, prompt, completion, group, share=False)
    tokens = visual + questions * text + rows * completion
    pairs = visual**2 / 2 + questions * text * (visual + text / 2) + rows * completion * (prompt + completion / 2)
    logits = 2 * sizes.head * rows * completion
    once = 3 * (2 * sizes.linear * tokens + 4 * sizes.width * sizes.layers * pairs + logits)
    image = passes * tower(sizes.tower, visual)
    return (apart + rows * image) / (once + image)
