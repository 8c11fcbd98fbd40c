"""What an evaluation is, and whether a folder holds a part of it."""

import json
import logging
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from medground.data.dataset import Dataset, GivenSample
from medground.errors import RunError
from medground.evaluation.conditions import Condition
from medground.evaluation.predictions import LineSamples, Predictions
from medground.evaluation.results import EvaluationMetadata
from medground.evaluation.results_file import SAMPLES, ResultsFile
from medground.pipeline.pipeline import Pipeline
from medground.recipe import Recipe
from medground.runs import provenance
from medground.runs.files import content_sha256, read_json, write_atomic
from medground.runs.folder import METADATA, write_recipe
from medground.runs.inputs import RunInputs, component_inputs, sample_inputs
from medground.runs.jsonable import plain

logger = logging.getLogger(__name__)
_DECIDE = (
    "prompt_interface", "proposer", "proposals", "segmenter", "prompt", "text_from", "allow_untrained", "sampling", "data",
)  # fmt: skip
_LATER = ("n_boot", "level", "batch_size", "published", "pictures")
"""Settings of ``evaluate`` that change no record."""

EvalSamples = Dataset[Any] | LineSamples


def metadata_of(
    recipe: Recipe, pipeline: Pipeline, samples: EvalSamples, saved: Predictions | None
) -> EvaluationMetadata:
    """Return what is known of an evaluation before its first answer."""
    settings = {key: value for key, value in recipe.settings("evaluate").items() if key not in _LATER}
    decide = {key: recipe.data.get(key) for key in _DECIDE} | {"evaluate": settings}
    decide |= {"reasoner": recipe.data.get("reasoner")} if saved is None else {"predictions": True}
    prompted = saved is None and "prompt_interface" in recipe.data
    return EvaluationMetadata(
        recipe=recipe.name,
        identity=sha256(json.dumps(decide, sort_keys=True).encode()).hexdigest(),
        samples=len(samples.ids),
        split=recipe.config.evaluate.split or recipe.config.data.split,
        unusable=list(samples.bad),
        predictions_sha256=None if saved is None else content_sha256(saved.path),
        prompt_sha256=provenance.prompt_sha256(pipeline.prompt_interface) if prompted else None,
        untrained_prompts=pipeline.untrained,
        plugins=provenance.plugins(recipe),
        objects=provenance.objects(recipe),
        versions=provenance.versions(),
    )


def inputs_of(recipe: Recipe, samples: EvalSamples, saved: Predictions | None) -> RunInputs:
    """Return the digests of what the records are made of."""
    kinds = ("reasoner", "prompt_interface") if saved is None else ()
    components = component_inputs(recipe, *kinds, "proposer", "segmenter")
    if saved is not None:
        components["the file of predictions"] = content_sha256(saved.path)
    entries = samples.entries if isinstance(samples, Dataset) else map(GivenSample, samples)
    return RunInputs(components=components, samples=sample_inputs(entries))


def begin(
    folder: Path,
    recipe: Recipe,
    metadata: EvaluationMetadata,
    inputs: RunInputs,
    conditions: Sequence[Condition],
    resume: bool,
) -> ResultsFile:
    """Write what an evaluation is into its folder, or check that the folder holds a part of it; return its records.

    Where samples are gone, the records stay that the others alone have made.

    Raises:
        RunError: if the folder holds another evaluation, or one of other inputs.
    """
    path = folder / METADATA
    exists = path.exists() or (folder / SAMPLES).exists()
    if exists and not resume:
        raise RunError(f"{folder} holds a run already", hint="add --resume to continue it, or choose another --out")
    if exists and read_json(path, EvaluationMetadata).identity != metadata.identity:
        raise RunError(f"{folder} holds another evaluation", hint="choose another --out")
    removed = inputs.require_same(folder, "samples") if exists else []
    results = ResultsFile(folder)
    if removed:
        logger.info("the data has lost %d samples: %s", len(removed), ", ".join(map(repr, removed)))
        others = [condition.name for condition in conditions if condition.needs_others]
        results.rewrite([key for key in results.records if key[0] not in others and key[1] not in removed])
    write_recipe(recipe, folder)
    inputs.write(folder)
    write_atomic(path, json.dumps(plain(metadata), indent=1) + "\n")
    return results
