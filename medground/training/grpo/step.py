"""GRPO, one step at a time: draw and score groups, then update the policy.

`GrpoTrainer.step` reads from top to bottom: sample completions and score them (`medground.training.grpo.rollouts`), cut
them into mini-batches and micro-batches (`medground.training.grpo.batch`), then one forward and one backward pass per
micro-batch and one optimizer step per mini-batch, with the loss of `medground.training.grpo.loss`. Records, checkpoints
and interruptions are in `medground.training.loop`.

A micro-batch is one forward and one backward pass over some completions of a group (all, or a few of them at a time,
exactly). Image and prompt are computed once for all micro-batches of a group, and the image once for all its groups, where
policy and engine can: see `GrpoTrainer.shared_prompt` and `shared_image`. The policy that sampled is the one that is
differentiated in the first update of a batch, so no pass computes its log-probabilities again; later updates on the batch
need them and get them before any parameter changes, and so does the KL term those of the reference.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor, nn

from medground.data.dataset import Dataset
from medground.errors import RecipeError
from medground.pipeline.rollouts import RolloutPipeline
from medground.protocols import CompletionGroup, Engine, RolloutSource, ServedReasoner, TrainableReasoner
from medground.recipe.schema import GrpoConfig
from medground.rewards.rubric import ConstantAlarm, why_no_total
from medground.runs import failpoints
from medground.training.grpo import metrics
from medground.training.grpo.batch import Batch, MicroBatch, Minibatch
from medground.training.grpo.loss import UNCORRECTED, importance, objective_of, policy_loss
from medground.training.grpo.metrics import StepStats
from medground.training.grpo.rollouts import OwnSampler, Rollouts
from medground.training.grpo.volume_rollouts import VolumeRollouts
from medground.training.method import CheckStop, StepResult, TrainingState
from medground.training.ranks import pad_to_longest
from medground.training.schedule import learning_rate, training_horizon
from medground.types import Sample


class NotFinite(Exception):
    """A loss or a gradient is not a finite number; no parameter was changed with it."""


class GrpoTrainer:
    """See `medground.training.loop.Method`.

    Args:
        pipeline: from completions to scores.
        reasoner: what is trained.
        policy: its policy as the engine returned it.
        engine: differentiates and steps.
        samples: the training data.
        config: the recipe's ``grpo`` section.
        seed: of the run.
        source: who samples.
        images: a number for each sample's image, where the samples of an image are drawn together.
        asking: of the first exchange, where `samples` are questions about volumes; `pipeline` is of the second then.
    """

    def __init__(
        self,
        pipeline: RolloutPipeline,
        reasoner: TrainableReasoner,
        policy: nn.Module,
        engine: Engine,
        samples: Sequence[Sample],
        config: GrpoConfig,
        seed: int,
        source: RolloutSource,
        images: Sequence[int] | None = None,
        asking: RolloutPipeline | None = None,
    ) -> None:
        self.pipeline, self.reasoner, self.policy, self.engine = pipeline, reasoner, policy, engine
        self.config, self.objective, self.source = config, objective_of(config), source
        source.begin(reasoner, engine)
        if asking is None:
            self.rollouts = Rollouts(pipeline, samples, config, seed, source, engine, images)
        else:
            assert isinstance(samples, Dataset), "volumes are opened by the entries of a dataset"
            self.rollouts = VolumeRollouts(asking, pipeline, samples, config, seed, source, engine, images)
        self.epoch_length, self.planned = training_horizon(len(samples), config)
        self.updates_per_step = -(-config.train_batch_size // config.mini_batch_size) * config.num_iterations

    def check(self, sample: Sample) -> None:
        """See `Method.check`."""
        self.reasoner.frame(sample.query.size)
        if isinstance(self.reasoner, ServedReasoner) and not isinstance(self.source, OwnSampler):
            self.reasoner.sampler_prompts(self.rollouts.conversations(sample))

    def check_length(self, sample: Sample) -> None:
        """See `Method.check_length`."""
        for messages in self.rollouts.conversations(sample):
            self._require_length(self.reasoner.group(messages, [self.reasoner.tokenize("")]), sample.query.id)

    def step(self, state: TrainingState, check_stop: CheckStop) -> StepResult:
        """See `Method.step`."""
        self.source.sync(self.engine.named_weights(), state.step)
        batch = self.rollouts.draw(state.step + 1, state.drawn, check_stop)
        self.source.sleep()

        stats, skipped = StepStats(), None
        if any(batch.usable):
            try:
                stats = self.update(batch, self._learning_rates(state.step), check_stop)
            except NotFinite as error:
                skipped = str(error)
        else:
            reasons = why_no_total(score for group in batch.groups for score in group.scores)
            skipped = f"no group could be scored: {reasons}"

        # After the update: a step that is given up must not have counted for the alarm.
        warnings = [*self._reward_warnings(state, batch), *self._mismatch_warnings(stats)]
        return StepResult(
            metrics={
                **metrics.batch_metrics(batch, tuple(self.rollouts.weights)),
                **({"images_drawn": float(len(set(batch.images)))} if self.rollouts.images is not None else {}),
                **({} if skipped else metrics.update_metrics(stats, kl=bool(self.config.beta))),
                **{f"reward/{label}/constant_steps": float(length) for label, (_, length) in state.alarm.items()},
                "epoch": (state.drawn + batch.drawn) / self.epoch_length,
            },
            drawn=batch.drawn,
            tokens=stats.tokens_computed,
            rows=metrics.completion_rows(batch),
            pictures=metrics.pictures(batch),
            warnings=warnings,
            skipped=skipped,
            incident=metrics.incident(batch, skipped),
        )

    def update(self, batch: Batch, learning_rates: Callable[[int], float], check_stop: CheckStop) -> StepStats:
        """Do all optimizer updates on one batch.

        Args:
            batch: the sampled and scored groups.
            learning_rates: the learning rate of the step's u-th update, from 0.
            check_stop: called while no parameter has been changed yet.

        Raises:
            NotFinite: at the first loss or gradient that is not finite, on any rank; updates before it stay done.
        """
        stats = StepStats()
        minibatches = batch.minibatches(self.config, self.objective)
        reused = 0 if self.config.num_iterations > 1 else 1
        minibatches[reused:] = [self.with_old_logps(batch, minibatch) for minibatch in minibatches[reused:]]
        if self.objective.beta:
            minibatches = [self.with_ref_logps(batch, minibatch) for minibatch in minibatches]
        for iteration in range(self.config.num_iterations):
            for minibatch in minibatches:
                for micro, completions in self.forward_passes(batch, minibatch):
                    if stats.updates == 0:
                        check_stop()
                    loss = self.micro_loss(micro, completions, stats, log=iteration == 0) / minibatch.normalizer
                    self.backward(loss)
                    stats.loss += float(loss.detach())
                self.optimizer_step(learning_rates(stats.updates), stats)
        return StepStats.of_ranks(self.engine.gather(stats)) if self.engine.world_size > 1 else stats

    @torch.no_grad()
    def with_old_logps(self, batch: Batch, minibatch: Minibatch) -> Minibatch:
        """Return the mini-batch with the log-probabilities of the current policy, which sampled it."""
        logps = self.logps(batch, minibatch, self.policy)
        pairs = zip(minibatch.micro_batches, logps, strict=True)
        return replace(minibatch, micro_batches=[replace(micro, old_logps=own) for micro, own in pairs])

    @torch.no_grad()
    def with_ref_logps(self, batch: Batch, minibatch: Minibatch) -> Minibatch:
        """Return the mini-batch with the log-probabilities of the reference."""
        with self.reasoner.reference() as reference:
            logps = self.logps(batch, minibatch, reference)
        pairs = zip(minibatch.micro_batches, logps, strict=True)
        return replace(minibatch, micro_batches=[replace(micro, ref_logps=own) for micro, own in pairs])

    def logps(self, batch: Batch, minibatch: Minibatch, policy: nn.Module) -> list[Tensor]:
        """Return [S, T] log-probabilities of each micro-batch under a policy."""
        logps = []
        for micro, completions in self.forward_passes(batch, minibatch, policy):
            own = policy(completions, self.config.temperature)[0]
            if micro is not None:
                logps.append(own)
        return logps

    def forward_passes(
        self, batch: Batch, minibatch: Minibatch, policy: nn.Module | None = None
    ) -> Iterator[tuple[MicroBatch | None, CompletionGroup]]:
        """Yield micro-batches with their completions as the policy takes them.

        None: a dummy pass of one token that keeps ranks in lockstep. Each group's prompt is encoded once, and computed once
        where that is possible, as is what several groups have in common about one image. Their backward passes come when the
        last micro-batch of the group, or the last group of the image, has run backward.
        """
        policy = policy or self.policy
        for image, micro_batches in groupby(
            pad_to_longest(self.engine, minibatch.micro_batches),
            lambda micro: None if micro is None else batch.images[micro.group],
        ):
            if image is None:
                for _ in micro_batches:
                    yield None, self.reasoner.group(batch.dummy_prompt, [self.reasoner.tokenize("")])
                continue
            own = groupby((micro for micro in micro_batches if micro is not None), lambda micro: micro.group)
            by_group = [list(micro_batches_of_group) for _, micro_batches_of_group in own]
            encoded = [self.encode(batch, first) for first, *_ in by_group]
            with self.shared_image(policy, encoded) as groups:
                for group, passes in zip(groups, by_group, strict=True):
                    with self.shared_prompt(policy, group, len(passes)) as once:
                        for micro in passes:
                            yield micro, once.part(micro.rows.start, micro.rows.stop)

    def shared_image(
        self, policy: nn.Module, groups: Sequence[CompletionGroup]
    ) -> AbstractContextManager[Sequence[CompletionGroup]]:
        """Enter to have the image of several groups computed once; as with `shared_prompt`, not by ranks in lockstep."""
        once = getattr(policy, "image_once", None)
        if once is None or len(groups) == 1 or self.engine.lockstep:
            return nullcontext(groups)
        shared: AbstractContextManager[Sequence[CompletionGroup]] = once(groups)
        return shared

    def shared_prompt(
        self, policy: nn.Module, group: CompletionGroup, passes: int
    ) -> AbstractContextManager[CompletionGroup]:
        """Enter to have a group's prompt computed once for several passes.

        Ranks in lockstep compute it in every pass: they would wait for one another's passes over prompts for ever.
        """
        once = getattr(policy, "prompt_once", None)
        if once is None or passes == 1 or self.engine.lockstep:
            return nullcontext(group)
        computed: AbstractContextManager[CompletionGroup] = once(group)
        return computed

    def encode(self, batch: Batch, micro: MicroBatch) -> CompletionGroup:
        """Return the whole group of a micro-batch as the policy takes it.

        Raises:
            RecipeError: if its prompt is longer than ``max_prompt_length``.
        """
        rollouts = batch.groups[micro.group].rollouts
        group = self.reasoner.group(micro.messages, [rollout.completion for rollout in rollouts])
        self._require_length(group, rollouts[0].sample.query.id)
        return group

    def _require_length(self, group: CompletionGroup, name: str) -> None:
        length, limit = max(group.prompt_lengths), self.config.max_prompt_length
        if length > limit:
            raise RecipeError(
                f"the prompt of sample {name!r} takes {length} tokens, more than grpo.max_prompt_length={limit}",
                hint=f"set grpo.max_prompt_length={length} or more, or set reasoner.max_pixels",
            )

    def micro_loss(
        self, micro: MicroBatch | None, completions: CompletionGroup, stats: StepStats, *, log: bool
    ) -> Tensor:
        """Return the summed loss of one forward pass; 0 for a dummy pass.

        Args:
            micro: the micro-batch; None for a dummy pass.
            completions: its completions as the policy takes them.
            stats: where what is computed is counted.
            log: whether its tokens enter the metrics.
        """
        temperature = 1.0 if micro is None else self.config.temperature
        logps: Tensor
        logps, entropies = self.policy(completions, temperature)
        if micro is None:
            return 0.0 * logps.sum()
        old_logps = (
            micro.old_logps if stats.updates else None
        )  # before the first update the current policy is the old one
        loss_mask, sampler_logps = micro.loss_mask.to(logps.device), micro.sampler_logps.to(logps.device)
        loss, sums = policy_loss(
            self.objective,
            logps,
            micro.advantages.to(logps.device),
            loss_mask,
            entropies=entropies,
            old_logps=old_logps,
            sampler_logps=sampler_logps,
            ref_logps=micro.ref_logps,
        )
        stats.count(completions)
        if log:
            stats.add(**{name: float(value) for name, value in sums.items()})
            stats.add(entropy=float(torch.where(loss_mask, entropies.detach(), 0.0).sum()))
            self._compare(logps.detach() if old_logps is None else old_logps, sampler_logps, completions.mask, stats)
        return loss

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss.

        Raises:
            NotFinite: on all ranks together, if the loss of one is not finite.
        """
        total = self.engine.all_reduce({"loss": float(loss.detach())})["loss"]
        if not math.isfinite(total):
            self.engine.discard()
            raise NotFinite(f"the loss is {total}")
        self.engine.backward(loss)
        failpoints.failpoint("update.mid")

    def optimizer_step(self, rate: float, stats: StepStats) -> None:
        """Step the optimizer with the accumulated gradients.

        Raises:
            NotFinite: if their norm is not finite.
        """
        norm = self.engine.step(rate)
        stats.learning_rate = rate
        stats.updates += 1
        if not math.isfinite(norm):
            raise NotFinite(f"the gradient norm is {norm}")
        stats.grad_norm += norm

    def close(self) -> None:
        """Close the sampler."""
        self.source.close()

    def _learning_rates(self, steps_done: int) -> Callable[[int], float]:
        first = steps_done * self.updates_per_step
        return lambda update: learning_rate(first + update, self.planned * self.updates_per_step, self.config)

    def _compare(self, old_logps: Tensor, sampler_logps: Tensor, mask: Tensor, stats: StepStats) -> None:
        """Count how far the sampler's log-probabilities are from the trainer's for the same tokens."""
        both = mask & ~sampler_logps.isnan()
        if not bool(both.any()):
            return
        difference = (old_logps[both].double() - sampler_logps[both].double()).abs()
        weights = importance(UNCORRECTED, old_logps, sampler_logps)[both].double()
        used = weights
        if self.objective.correction != "none":
            used = importance(self.objective, old_logps, sampler_logps)[both].double()
        stats.add(mismatch=float(difference.sum()), compared=len(difference))
        stats.add(weight=float(weights.sum()), corrected=float((used != weights).sum()))
        stats.highest_mismatch = max(stats.highest_mismatch, float(difference.max()))
        stats.lowest_weight = min(stats.lowest_weight, float(weights.min()))
        stats.highest_weight = max(stats.highest_weight, float(weights.max()))

    def _mismatch_warnings(self, stats: StepStats) -> list[str]:
        """Return a warning if the sampler's probabilities are not those of the trainer."""
        limit = self.config.mismatch_alarm
        if not stats.compared or stats.mismatch <= limit * stats.compared:
            return []
        return [
            f"sampler and trainer differ by {stats.mismatch / stats.compared:.3g} per token in log-probability, "
            f"more than grpo.mismatch_alarm={limit:g}"
        ]

    def _reward_warnings(self, state: TrainingState, batch: Batch) -> list[str]:
        """Return a warning for each reward that has become constant and for each kind of failure."""
        alarm = ConstantAlarm()
        alarm.runs = state.alarm
        scores = [score for group in batch.groups for score in group.scores]
        constant = [f"reward {label!r} has been constant for {alarm.steps} steps" for label in alarm.feed(scores)]
        causes = {failure.kind: failure.cause for score in scores for failure in score.failures}
        return constant + [f"{kind}: {cause}" for kind, cause in sorted(causes.items())]
