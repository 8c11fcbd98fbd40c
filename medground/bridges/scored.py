"""A recipe as what other frameworks ask for: questions with their images, and scores for texts."""

from collections.abc import Callable
from typing import Any

from medground.data.open_dataset import open_dataset
from medground.errors import RunError
from medground.frames import Frame
from medground.geometry import Size
from medground.pipeline.pipeline import Pipeline
from medground.recipe import check, resolve
from medground.recipe.recipe import Source
from medground.rewards.rubric import Score, rubric, why_no_total
from medground.types import Completion, Messages


class ScoredQuestions:
    """The samples of a recipe, its prompts about them, and its rewards for answers.

    Args:
        recipe: a shipped name, a path, or a mapping; it has `data`, a prompt interface and rewards, and where a reward needs
            masks a segmenter.
        overrides: ``"a.b=c"`` strings, as on the command line.
        data: in place of the recipe's: a path, or samples.
        frame: what the model's numbers count, from the (H, W) of an image; by default as the recipe's reasoner says, which is
            built for it.

    Raises:
        RecipeError: if the recipe cannot be used as written, or has no rewards.
        InputError: if there is no such dataset, or none of its samples is left.
    """

    def __init__(
        self, recipe: Source, *overrides: str, data: Any = None, frame: Callable[[Size], Frame] | None = None
    ) -> None:
        resolved = resolve(recipe, *overrides, values={} if data is None else {"data": data})
        check(resolved)
        config = resolved.config.data
        self.name = resolved.name
        self.rubric = rubric(resolved)
        self.pipeline = Pipeline.from_recipe(resolved)
        self.longest = self.pipeline.sampling.max_completion_length
        """Tokens that an answer may have."""
        self.frame = frame
        self.samples = open_dataset(
            resolved.data_source,
            split=config.split,
            limit=config.limit,
            reader=config.reader,
            leave_out=config.leave_out,
        )

    def __len__(self) -> int:
        return len(self.samples)

    def messages(self, index: int) -> Messages:
        """Return the conversation that asks about a sample; it ends with the user's turn."""
        return self.pipeline.render(self.samples[index].query)

    def ideal(self, index: int) -> str:
        """Return the ideal answer about a sample, in the numbers of the model.

        Raises:
            ValueError: if the answer has no words for the sample's target.
        """
        sample = self.samples[index]
        size = sample.query.size
        return self.pipeline.knowing(sample.query).answer(sample.target, frame=self._frame(size), size=size)

    def _frame(self, size: Size) -> Frame:
        return self.frame(size) if self.frame is not None else self.pipeline.reasoner.frame(size)

    def score(self, index: int, text: str) -> Score:
        """Return what the rubric says about a text as the answer about a sample.

        Raises:
            RunError: where it has no total, because a term fails or all abstain.
        """
        sample = self.samples[index]
        completion = Completion(text=text, frame=self._frame(sample.query.size))
        (score,) = self.rubric(self.pipeline.rollouts([sample], [completion], masks=self.rubric.needs_mask))
        if score.total is None:
            raise RunError(f"the answer about {sample.query.id!r} has no score: {why_no_total([score])}")
        return score
