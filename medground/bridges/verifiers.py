"""A recipe as a taskset of `verifiers` (0.4 or newer), which its environments evaluate and train on."""

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import verifiers.v1 as vf
from PIL import Image as Pillow

from medground.bridges.scored import ScoredQuestions
from medground.frames import Frame
from medground.geometry import Size
from medground.recipe.recipe import Source


def taskset(
    recipe: Source, *overrides: str, data: Any = None, frame: Callable[[Size], Frame] | None = None
) -> type[vf.Taskset[Any, Any]]:
    """Return a taskset of a recipe's samples, each asked and rewarded as the recipe says.

    A module that names it in ``__all__`` is a taskset's package. Each term is a reward of the trace, with its weight; one that
    abstains is none, and an answer without a total is an error of the trace. Arguments and errors are those of
    `medground.bridges.scored.ScoredQuestions`.
    """
    questions = ScoredQuestions(recipe, *overrides, data=data, frame=frame)

    class GroundingTask(vf.Task[vf.TaskData]):  # type: ignore[misc]
        @vf.reward  # type: ignore[untyped-decorator]
        async def rubric(self, trace: vf.Trace) -> dict[str, float]:
            score = questions.score(int(self.data.name or 0), _text(trace.assistant_messages[-1]))
            for label, term in score.terms.items():
                if term.value is not None:
                    trace.record_reward(label, term.value, term.weight)
            return {}

    class GroundingTaskset(vf.Taskset[GroundingTask]):  # type: ignore[misc]
        def load(self) -> Iterator[GroundingTask]:
            for index in range(len(questions)):
                prompt = [{**one, "content": list(map(_part, one["content"]))} for one in questions.messages(index)]
                yield GroundingTask(vf.TaskData(name=str(index), prompt=prompt), self.config.task)

    return GroundingTaskset


def _text(message: vf.AssistantMessage) -> str:
    """Return what a model wrote: servers that take the thinking out of the text have it beside it."""
    thinking, content = message.reasoning_content, message.content or ""
    return content if thinking is None else f"<think>{thinking}</think>{content}"


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "image":
        return part
    file = io.BytesIO()
    Pillow.fromarray(part["image"]).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
