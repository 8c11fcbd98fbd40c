"""GRPO, one step at a time: draw and score groups, update the policy, say what happened.

Read `medground.training.grpo.rollouts` for the first half of a step, `medground.training.grpo.update` for the second, `medground.training.loop` for
what surrounds it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from medground.pipeline.pipeline import RolloutPipeline
from medground.protocols import Engine, RolloutSource, TrainableReasoner
from medground.rewards.rubric import ConstantAlarm
from medground.training.grpo import metrics
from medground.training.grpo.rollouts import Batch, Rollouts
from medground.training.grpo.update import NotFinite, Sums, Update
from medground.training.loop import Pause, Result, State
from medground.training.schedule import extent, learning_rate
from medground.types import Sample

NOT_FINITE = ("nan", "infinite")
"""Kinds of reward failures that are numbers gone wrong, see `medground.rubric`."""


class Grpo:
    """See `medground.training.loop.Method`.

    Args:
        graph: from completions to scores.
        reasoner: what is trained.
        policy: its policy as the engine returned it.
        engine: differentiates and steps.
        samples: the training data.
        settings: the recipe's ``grpo`` section.
        seed: of the run.
        source: who samples.
    """

    def __init__(
        self,
        graph: RolloutPipeline,
        reasoner: TrainableReasoner,
        policy: nn.Module,
        engine: Engine,
        samples: Sequence[Sample],
        settings: dict[str, Any],
        seed: int,
        source: RolloutSource,
    ) -> None:
        self.graph, self.engine, self.settings, self.source = graph, engine, settings, source
        source.begin(reasoner, engine)
        self.rollouts = Rollouts(graph, samples, settings, seed, source, engine)
        self.update = Update(reasoner, policy, engine, settings)
        self.epoch, self.planned = extent(len(samples), settings)

    def step(self, state: State, pause: Pause) -> Result:
        """See `Method.step`."""
        number = state.step + 1
        self.source.sync(self.engine.named_weights(), state.step)
        batch = self.rollouts.draw(number, state.drawn, pause)
        self.source.sleep()
        sums, skipped = Sums(), None
        if any(batch.usable):
            try:
                sums = self.update(batch, self._rate(number), pause)
            except NotFinite as found:
                skipped = str(found)
        else:
            skipped = "no group could be scored"
        warnings = self._warnings(state, batch)  # now: a step that is given up must not have counted for the alarm
        return Result(
            metrics={
                **metrics.of_batch(batch, self.graph.rubric.labels),
                **({} if skipped else metrics.of_update(sums, kl=bool(self.settings["beta"]))),
                **{f"reward/{label}/constant_steps": float(length) for label, (_, length) in state.alarm.items()},
                "epoch": (state.drawn + batch.drawn) / self.epoch,
            },
            drawn=batch.drawn,
            tokens=sums.trained,
            rows=metrics.table(batch),
            pictures=metrics.pictures(batch),
            warnings=[*warnings, *self._mismatch(sums)],
            skipped=skipped,
            incident=_incident(batch, skipped),
        )

    def _rate(self, number: int) -> Callable[[int], float]:
        per_step, settings = self.update.per_step, self.settings

        def rate(update: int) -> float:
            return learning_rate(
                (number - 1) * per_step + update,
                updates=self.planned * per_step,
                peak=settings["learning_rate"],
                schedule=settings["schedule"],
                warmup_ratio=settings["warmup_ratio"],
            )

        return rate

    def _mismatch(self, sums: Sums) -> list[str]:
        """The alarm about a sampler that is not the trainer's model."""
        most, compared = self.settings["mismatch_alarm"], sums.token.get("compared", 0.0)
        if not compared or sums.token["mismatch"] <= most * compared:
            return []
        return [
            f"sampler and trainer differ by {sums.token['mismatch'] / compared:.3g} per token in log-probability, "
            f"more than grpo.mismatch_alarm={most:g}"
        ]

    def _warnings(self, state: State, batch: Batch) -> list[str]:
        alarm = ConstantAlarm()
        alarm.runs = state.alarm
        scores = [score for group in batch.groups for score in group.scores]
        dead = alarm.feed(scores)
        told = [f"term {label!r} has said the same for {alarm.steps} steps" for label in dead]
        causes = {failure.kind: failure.cause for score in scores for failure in score.failures}
        return told + [f"{kind}: {cause}" for kind, cause in sorted(causes.items())]


def _incident(batch: Batch, skipped: str | None) -> Mapping[str, Any] | None:
    """The batch, where a step was skipped or a reward was not a finite number; token ids make it repeatable."""
    wrong = any(
        failure.kind in NOT_FINITE for group in batch.groups for score in group.scores for failure in score.failures
    )
    if skipped is None and not wrong:
        return None
    rows = metrics.table(batch)
    ids = [rollout.completion.token_ids for group in batch.groups for rollout in group.rollouts]
    return {"completions": [{**row, "token_ids": each} for row, each in zip(rows, ids, strict=True)]}
