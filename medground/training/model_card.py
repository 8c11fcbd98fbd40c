"""The model card of an exported run: what its folder records and what its owner declares, and nothing else."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medground.errors import InputError
from medground.evaluation.metrics import DEFINITIONS
from medground.frames import Frame
from medground.recipe import Recipe
from medground.report import STATEMENT
from medground.runs.folder import RunMetadata
from medground.runs.hub import parse_hub_id
from medground.training.method import TrainingState

NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the user who exports a run says of it, because no run records it.

    Args:
        base_model: what training started from: a hub id, or words.
        data: the training data: a hub id, or words.
        licence: of the weights, as the Hugging Face Hub writes it.

    Raises:
        InputError: if one of them is no single line of text, or `licence` no such word.
    """

    base_model: str | None = None
    data: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not (value.strip() and value.isprintable()):
                raise InputError(f"{name} is no line of text: {value!r}", hint=f"leave {name} out, or write words")
        if self.licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.licence):
            raise InputError(
                f"licence is no name of a licence: {self.licence!r}",
                hint="write it as the hub does, for example apache-2.0, cc-by-nc-4.0 or other",
            )


def model_card(
    *,
    metadata: RunMetadata,
    recipe: Recipe,
    state: TrainingState,
    last: Mapping[str, Any],
    validation: Mapping[str, Any],
    adapter: bool,
    prompt: str | None,
    declared: Declared,
    required: Sequence[str],
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
        declared: what the user says of it.
        required: the dotted keys of the folder's recipe that must be given.
    """
    kind = "grpo" if "grpo" in recipe.data else "sft"
    parts = [
        f"---\nlibrary_name: {'peft' if adapter else 'transformers'}\npipeline_tag: image-text-to-text",
        f"tags: [medground, {kind}]",
        *_front_matter(recipe, declared),
        "---\n",
        f"# {metadata.recipe or recipe.name}\n",
        f"{STATEMENT}\n",
        "Everything below was recorded by the run that trained this model, or declared by who exported it. What it does not "
        "say is not known.\n",
        "## Origin\n",
        _table(("what", "value", "says"), _origins(recipe, declared)),
        "## What its numbers count\n\n" + _numbers(metadata.frame),
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
        "## Use\n\n" + _use(recipe, required),
        "## Load without medground\n\n" + _load(adapter),
        "## Not known\n",
        "- Whether its licence permits your use: those of the starting checkpoint and of the data bind this model.\n"
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


def _base_model(recipe: Recipe) -> str | None:
    """Return the repository of the starting checkpoint; None where it was a local folder."""
    item = parse_hub_id(recipe.component("reasoner").arguments.get("checkpoint"), "reasoner.checkpoint")
    return None if item is None else item.repository


def _dataset(recipe: Recipe) -> str | None:
    """Return the repository of the training data; None where they were local files."""
    item = parse_hub_id(recipe.config.data.path, "data.path", kind="dataset")
    return None if item is None else item.repository


def _origins(recipe: Recipe, declared: Declared) -> list[tuple[str, str, str]]:
    recorded = {"base model": _base_model(recipe), "data": _dataset(recipe), "licence": None}
    stated = {"base model": declared.base_model, "data": declared.data, "licence": declared.licence}
    rows = []
    for what, value in recorded.items():
        if value is not None:
            rows.append((what, value, "the run"))
        if stated[what] is not None and stated[what] != value:
            rows.append((what, str(stated[what]), "who exported it"))
        elif value is None:
            rows.append((what, NOT_KNOWN, "–"))
    return rows


def _front_matter(recipe: Recipe, declared: Declared) -> list[str]:
    """Return the lines that the hub reads; only ids can stand there, so words stand in the table alone."""
    base, data = declared.base_model or _base_model(recipe), declared.data or _dataset(recipe)
    lines = [f"license: {declared.licence}"] if declared.licence else []
    lines += [f"base_model: {json.dumps(base)}"] if base and _HUB_ID.fullmatch(base) else []
    return lines + ([f"datasets: [{json.dumps(data)}]"] if data and _HUB_ID.fullmatch(data) else [])


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

_COUNTED = {
    "permille": "thousandths of the image's sides: 0 is the left or upper edge, 1000 the right or lower one",
    "unit": "fractions of the image's sides: 0 is the left or upper edge, 1 the right or lower one",
    "pixel": "pixels of the image as the model sees it, which is not the original: one of {before} px is resized to {after} px",
}


def _numbers(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return f"{NOT_KNOWN.capitalize()}: the run did not record it.\n"
    frame = Frame(entry["kind"], tuple(entry["size"]), entry["order"])
    counted = _COUNTED[frame.kind].format(before="480 x 640", after=" x ".join(map(str, frame.size)))
    first = "x comes before y" if frame.order == "xy" else "y comes before x"
    return (
        f"Frame `{frame.kind}`, order `{frame.order}`. The numbers in its answers are {counted}; {first}. "
        "medground converts them to pixels of the original image. Whoever loads the weights otherwise must do so too.\n"
    )


def _use(recipe: Recipe, required: Sequence[str]) -> str:
    given = "".join(f" {key}=VALUE" for key in required)
    note = "\nA path of the machine it was trained on is not in the recipe; give your own.\n" if required else ""
    if "segmenter" not in recipe.data:
        given, note = f"{given} segmenter=NAME", f"{note}\nThe run had no segmenter; name one to get masks.\n"
    strings = "".join(f', "{override}"' for override in given.split())
    return (
        f"    medground ground IMAGE QUESTION --recipe THIS_FOLDER{given}\n\n"
        f'    ground = medground.load("THIS_FOLDER"{strings})\n{note}'
    )


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
