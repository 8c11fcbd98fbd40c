"""What sharing prompts and images saved in the updates of a run, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

LITTLE = 1.05
"""Times fewer tokens below which sharing gains little."""


def shared_words(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return sentences on what was shared, and on what gained nothing; none where no update was counted.

    Args:
        steps: metrics of steps of GRPO; ``images_drawn`` is among them where samples of an image were drawn together.
    """
    computed, per_question, per_completion, prompts, images = (
        sum(step.get(key) or 0 for step in steps)
        for key in (
            "tokens_trained/computed",
            "tokens_trained/image_per_question",
            "tokens_trained/prompt_per_completion",
            "prompts_trained",
            "images_trained",
        )
    )
    if not computed or not images:
        return []
    sentences = [_prompts(per_completion / per_question)]
    if any("images_drawn" in step for step in steps):
        sentences.append(_images(prompts / images, per_question / computed))
    return sentences


def _prompts(less: float) -> str:
    if less == 1:
        return "Sharing prompts gains nothing: every completion computes a prompt of its own."
    if less < LITTLE:
        return f"Sharing prompts gains little: they are short beside the completions ({_less(less)})."
    return f"A prompt is computed once for all its completions: {_less(less)}."


def _images(questions: float, less: float) -> str:
    if questions == 1:
        return (
            "Grouping by image gains nothing: no two questions that were trained on together share an image, or the model's "
            "images see the question."
        )
    if less < LITTLE:
        return f"Grouping by image gains little: images are short beside questions and completions ({_less(less)})."
    return f"An image is computed once for its questions, {questions:.3g} on average: {_less(less)} again."


def _less(times: float) -> str:
    return f"{times:.2f} times fewer tokens in the language model"
