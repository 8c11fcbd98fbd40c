"""Which term of a rubric decides the advantages, before training: from completions that are drawn, or that a run saved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medground.errors import InputError, RecipeError
from medground.recipe import Recipe, resolve
from medground.rewards.audit.shares import AdvantageShares
from medground.runs.folder import TRAINED, read_events, read_table
from medground.training.build import build
from medground.training.grpo.advantage import estimate, shares
from medground.training.grpo.step import GrpoTrainer

NAN = math.nan


def sampled_shares(recipe: Recipe, queries: int) -> AdvantageShares:
    """Return the shares of completions that the recipe's reasoner draws as it is; nothing is trained.

    Args:
        recipe: with a ``grpo`` section; its estimator of the advantage is used.
        queries: questions of ``data``, with ``grpo.num_generations`` completions each; all if it has fewer.

    Raises:
        RecipeError: if it has no such section.
    """
    _require_grpo(recipe)
    one = {**recipe.data["grpo"], "train_batch_size": 1}  # fewer samples than a batch takes are enough
    training = build(replace(recipe, data={**recipe.data, "grpo": one}))
    trainer = training.method
    assert isinstance(trainer, GrpoTrainer)
    try:
        rollouts = trainer.rollouts
        count = min(queries, len(training.samples))
        rollouts.config = replace(rollouts.config, train_batch_size=count, resample_constant=0)
        trainer.source.sync(training.engine.named_weights(), 0)
        batch = rollouts.draw(0, 0, lambda: None)  # step 0: training draws others
    finally:
        trainer.close()
    usable = torch.tensor(batch.usable)
    return _shares(
        f"drawn by the reasoner {recipe.component('reasoner').name} before training",
        shares(batch.advantages, batch.contributions),
        groups=int(usable.sum()),
        constant=int((batch.constant & usable).sum()),
        completions=batch.advantages.numel(),
    )


def saved_shares(recipe: Recipe, run: Path, *, after: int = 0) -> AdvantageShares:
    """Return the shares that the recipe's terms and weights have on the completions which a run of GRPO saved.

    Every weighted term must have been a term of that run, with the same arguments; weight 0 is enough.

    Args:
        recipe: with a ``grpo`` section; its estimator of the advantage is used.
        run: the folder.
        after: leave out the completions of so many first steps.

    Raises:
        RecipeError: if it has no such section.
        InputError: if the run has no completions, or lacks a term.
    """
    _require_grpo(recipe)
    if not (run / TRAINED).is_file():
        raise InputError(
            f"{run} is not the folder of a training run", hint="medground train RECIPE --out DIR makes one"
        )
    weighted = {label: term for label, term in recipe.terms.items() if term.weight != 0}
    saved = resolve(str(run / TRAINED)).terms
    for label, term in weighted.items():
        if label not in saved or saved[label][::2] != term[::2]:
            raise InputError(
                f"the completions of {run} were not scored by the term {label!r} of this recipe",
                hint="draw completions with --sample N, or train with the term observed: weight 0",
            )
    steps = [event["step"] for event in read_events(run) if event["step"] > after]
    groups = [group for step in steps for group in _groups(read_table(run, step))]
    if not groups:
        raise InputError(f"{run} holds no completions", hint="draw completions with --sample N")
    terms = {label: (term.weight, _column(groups, f"reward/{label}")) for label, term in weighted.items()}
    silent = torch.stack([values.isnan() for _, values in terms.values()]).all(dim=0)
    failed = torch.tensor([[row["failures"] is not None for row in group] for group in groups])
    unusable = (silent | failed).any(dim=1, keepdim=True)
    rewards = torch.stack([weight * values.nan_to_num() for weight, values in terms.values()]).sum(dim=0)
    grpo = recipe.config.grpo
    estimated = estimate(
        grpo.advantage_estimator,
        torch.where(unusable, NAN, rewards),
        terms,
        scale=grpo.scale_rewards,
        eps=grpo.advantage_eps,
    )
    usable = ~unusable.squeeze(1)
    return _shares(
        f"of the run {run.name}",
        shares(estimated.values, estimated.contributions),
        groups=int(usable.sum()),
        constant=int((estimated.constant & usable).sum()),
        completions=rewards.numel(),
    )


def _require_grpo(recipe: Recipe) -> None:
    if "grpo" not in recipe.data:
        raise RecipeError(
            f"the recipe {recipe.name!r} has no grpo section, and so no advantages",
            hint="name a recipe that trains by GRPO, for example train/soft",
        )


def _shares(
    source: str, by_term: Mapping[str, float], *, groups: int, constant: int, completions: int
) -> AdvantageShares:
    ordered = dict(sorted(by_term.items(), key=lambda pair: -pair[1]))
    return AdvantageShares(source=source, groups=groups, constant=constant, completions=completions, shares=ordered)


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the rows of a step's table by question."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["sample"], []).append(row)
    return list(groups.values())


def _column(groups: Sequence[Sequence[Mapping[str, Any]]], name: str) -> Tensor:
    values = [[row.get(name) for row in group] for group in groups]
    return torch.tensor([[NAN if value is None else value for value in row] for row in values], dtype=torch.float64)
