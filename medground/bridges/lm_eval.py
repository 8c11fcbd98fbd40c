"""A recipe as a task of the lm-evaluation-harness, `lm_eval` 0.4.13 or newer."""
# ruff: noqa: D102 - `lm_eval.api.task.Task` says what the methods are

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from PIL import Image as Pillow

from medground.bridges.scored import ScoredQuestions
from medground.recipe.recipe import Source


class GroundingTask(Task):  # type: ignore[misc]
    """The samples of a recipe, asked and rewarded as it says, for ``lm_eval.simple_evaluate(MODEL, tasks=[...])``.

    Its metrics are ``reward``, the rubric's total, and the value of every term by its label, each the mean over the answers
    that have one. A model is given the image as ``visual``, with ``<image>`` where it stands in the text.

    Arguments and errors are those of `medground.bridges.scored.ScoredQuestions`.
    """

    VERSION = 1
    OUTPUT_TYPE = "generate_until"
    MULTIMODAL = True
    has_training_docs = has_validation_docs = lambda _: False
    has_test_docs = lambda _: True  # noqa: E731

    def __init__(self, recipe: Source, *overrides: str, **arguments: Any) -> None:
        self.questions = ScoredQuestions(recipe, *overrides, **arguments)
        super().__init__()
        self.set_config("task", self.questions.name.replace("/", "_"))

    def download(self, *_: Any, **__: Any) -> None: ...

    def test_docs(self) -> list[dict[str, int]]:
        return [{"index": index} for index in range(len(self.questions))]

    def doc_to_text(self, doc: dict[str, int]) -> str:
        content = [part for message in self.questions.messages(doc["index"]) for part in message["content"]]
        return "\n".join("<image>" if part["type"] == "image" else part["text"] for part in content)

    def doc_to_target(self, doc: dict[str, int]) -> str:
        return self.questions.ideal(doc["index"])

    def construct_requests(self, doc: dict[str, int], ctx: str, *, metadata: Any = None, **_: Any) -> Instance:
        image = Pillow.fromarray(self.questions.samples[doc["index"]].query.image)
        settings = {"until": [], "do_sample": False, "max_gen_toks": self.questions.longest}
        return Instance("generate_until", doc, (ctx, settings, {"visual": [image]}), 0, metadata=metadata)

    def process_results(self, doc: dict[str, int], results: list[str]) -> dict[str, float | None]:
        score = self.questions.score(doc["index"], results[0])
        return {"reward": score.total, **{k: term.value for k, term in score.terms.items() if term.value is not None}}

    def aggregation(self) -> dict[str, Any]:
        return dict.fromkeys(("reward", *self.questions.rubric.labels), mean)

    def higher_is_better(self) -> dict[str, bool]:
        return dict.fromkeys(self.aggregation(), True)
