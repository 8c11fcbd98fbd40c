"""What can be wrong with a run's samples, known before its first step."""

from collections.abc import Callable

from medground.errors import InputError
from medground.geometry import Size
from medground.training.build import TrainingRun
from medground.training.schedule import sample_indices

NAMED = 3
"""So many of the samples that cannot be used are named."""


def require_usable_samples(training: TrainingRun, stopped: Callable[[], bool]) -> None:
    """Read the samples that the run draws and validates on, each rank its share, and stop if one cannot be used.

    Tokens are counted of the longest question at every size that images are seen at.

    Args:
        training: the built run.
        stopped: ends the check early.

    Raises:
        InputError: naming the first samples that cannot be read or have no answer, and why.
        RecipeError: if a prompt is longer than the recipe allows.
    """
    samples, config, method, engine = training.samples, training.config, training.method, training.engine
    drawn = min(len(samples), method.planned * config.train_batch_size)
    seed = training.recipe.config.seed
    order = sample_indices(
        0, drawn, samples=len(samples), batch=config.train_batch_size, seed=seed, images=training.images
    )
    needed = [(samples, index) for index in sorted(set(order))]
    if training.validation is not None:
        needed += [(training.validation.samples, index) for index in range(len(training.validation.samples))]
    problems: list[str] = []
    hints: list[str] = []
    longest: dict[Size, tuple[int, int]] = {}
    for dataset, index in needed[engine.rank :: engine.world_size]:
        if stopped():
            break
        try:
            sample = dataset[index]
            size = training.reasoner.frame(sample.query.size).size
            if dataset is samples:
                method.check(sample)
                longest[size] = max(longest.get(size, (0, 0)), (len(sample.query.question), index))
        except InputError as error:
            named = error.message.startswith("sample ")
            problems.append(error.message if named else f"sample {dataset.ids[index]!r}: {error.message}")
            hints.append(error.hint or "repair the sample, or take its line out of the manifest")
    problems, hints = ([text for share in engine.gather(texts) for text in share] for texts in (problems, hints))
    if problems:
        raise InputError(
            f"{len(problems)} of {len(needed)} samples cannot be used: {'; '.join(problems[:NAMED])}",
            hint="; ".join(dict.fromkeys(hints[:NAMED])),
        )
    for _, index in longest.values():
        method.check_length(samples[index])
