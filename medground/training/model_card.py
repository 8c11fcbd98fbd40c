"""The model card of an exported run: what its folder records, and nothing that it does not."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medground.evaluation.metrics import DEFINITIONS
from medground.recipe import Recipe
from medground.report import STATEMENT
from medground.runs.folder import RunMetadata
from medground.training.method import TrainingState


def model_card(
    *,
    metadata: RunMetadata,
    recipe: Recipe,
    state: TrainingState,
    last: Mapping[str, Any],
    validation: Mapping[str, Any],
    adapter: bool,
    prompt: str | None,
) -> str:
    """Return the card as Markdown with its front matter.

    Args:
        metadata: the run's ``run.json``.
        recipe: what was trained.
        state: the checkpoint's state.
        last: the event of its last step.
        validation: the event of its validation, empty where there was none.
        adapter: whether the folder holds an adapter alone.
        prompt: what the model was asked with; None where the wording is not ours to repeat.
    """
    kind = "grpo" if "grpo" in recipe.data else "sft"
    parts = [
        f"---\nlibrary_name: {'peft' if adapter else 'transformers'}\npipeline_tag: image-text-to-text",
        f"tags: [medground, {kind}]\n---\n",
        f"# {metadata.recipe or recipe.name}\n",
        f"{STATEMENT}\n",
        "Everything below was recorded by the run that trained this model. What it does not say is not known.\n",
        "## Training\n",
        _table(("what", "value"), _training(metadata, recipe, state, kind)),
        "## Rewards\n\n" + _table(("term", "component", "weight"), _terms(recipe)) if recipe.terms else "",
        "## Measured on the split that chose the checkpoint\n"
        if _chose(recipe)
        else "## Measured on a held-out split\n",
        _measured(recipe, validation),
        "## Measured on the training samples, in the last step\n",
        _table(("metric", "value"), [(name, _shown(last[name])) for name in LAST if last.get(name) is not None]),
        "## Asked with\n\n" + _asked(recipe, prompt),
        "## Load\n\n" + _load(adapter),
        "## Not known\n",
        "- The licence. That of the starting checkpoint and those of the data bind this model; the run records none.\n"
        "- How it does on images of other origin than its training data.\n"
        "- Whether any of it is fit for use on patients: it is not to be used so.\n",
    ]
    return "\n".join(part for part in parts if part)


LAST = ("reward", "reward_std", "loss", "kl", "entropy", "completions/mean_length", "completions/grounded_ratio")
"""What is told of the last step."""


def _training(metadata: RunMetadata, recipe: Recipe, state: TrainingState, kind: str) -> list[tuple[str, str]]:
    reasoner = recipe.component("reasoner")
    config = asdict(recipe.config.grpo if kind == "grpo" else recipe.config.sft)
    settings = ", ".join(f"{key}={value}" for key, value in config.items() if value is not None)
    versions = ", ".join(f"{package} {version}" for package, version in metadata.versions.items())
    plugins = ", ".join(f"{component} ({owner})" for component, owner in metadata.plugins.items())
    rows = [
        ("method", kind.upper()),
        ("reasoner", reasoner.name),
        ("started from", _origin(reasoner.arguments)),
        ("steps", f"{state.step:,} of {metadata.planned_steps or '?'}, {len(state.skipped)} of them skipped"),
        ("tokens trained on", f"{state.tokens:,}"),
        ("training samples", str(metadata.samples or "?")),
        ("checkpoint rule", metadata.checkpoint_rule or "not recorded"),
        ("seed", "not recorded" if metadata.seed is None else str(metadata.seed)),
        *metadata.hashes(),
        ("settings", settings),
        ("plugins", plugins),
        ("versions", versions),
    ]
    return [(what, value) for what, value in rows if value]


def _origin(arguments: Mapping[str, Any]) -> str:
    """Return the starting checkpoint: a hub id as it is, of a local path its last part alone."""
    checkpoint, revision = str(arguments.get("checkpoint", "")), arguments.get("revision")
    if not checkpoint:
        return ""
    if Path(checkpoint).is_absolute() or Path(checkpoint).exists():
        return f"a local folder called {Path(checkpoint).name}"
    return f"{checkpoint} at {revision}" if revision else checkpoint


def _terms(recipe: Recipe) -> list[tuple[str, str, str]]:
    return [(label, component, f"{weight:g}") for label, (component, weight, _) in recipe.terms.items()]


def _chose(recipe: Recipe) -> bool:
    return bool(recipe.config.validate.every and recipe.config.validate.metric)


def _measured(recipe: Recipe, validation: Mapping[str, Any]) -> str:
    rows = [
        (name, _shown(validation.get(f"eval/{name}")), f"{validation.get(f'eval/{name}/n', 0):g}", meaning)
        for name, meaning in DEFINITIONS.items()
        if f"eval/{name}" in validation
    ]
    if not rows:
        return "Nothing was.\n"
    grounded = validation["eval/grounded_ratio"]
    first = (
        f"Split {recipe.config.validate.split}, greedy, {validation['samples']} samples; "
        f"{grounded:.1%} of the answers had no fault."
    )
    chosen = " The checkpoint was chosen by it, so the figures flatter the model.\n" if _chose(recipe) else "\n"
    return f"{first}{chosen}\n" + _table(("metric", "mean", "n", "definition"), rows)


def _asked(recipe: Recipe, prompt: str | None) -> str:
    name, _ = recipe.component("prompt_interface")
    if prompt is None:
        return f"Prompt interface {name} with a template of the user's own; its hash stands above.\n"
    return f"Prompt interface {name}, image first:\n\n" + "".join(f"    {line}\n" for line in prompt.splitlines())


def _load(adapter: bool) -> str:
    if adapter:
        return (
            "    from peft import PeftModel\n"
            "    from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
            "    base = AutoModelForImageTextToText.from_pretrained(STARTING_CHECKPOINT)\n"
            "    model = PeftModel.from_pretrained(base, THIS_FOLDER)\n"
            "    processor = AutoProcessor.from_pretrained(THIS_FOLDER)\n"
        )
    return (
        "    from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        "    model = AutoModelForImageTextToText.from_pretrained(THIS_FOLDER)\n"
        "    processor = AutoProcessor.from_pretrained(THIS_FOLDER)\n"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
