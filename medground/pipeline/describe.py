"""The stages of a recipe in words."""

from medground.recipe import Recipe
from medground.recipe.choosing import is_grid, proposes_by_text


def describe(recipe: Recipe) -> str:
    """Return the stages of a recipe as text: each with the component that does it, and what goes in and out."""
    data, sampling = recipe.data, recipe.config.sampling
    stages: list[tuple[str, str, str]] = []

    def call(kind: str) -> str:
        component = recipe.component(kind)
        arguments = ", ".join(f"{key}={value!r}" for key, value in component.arguments.items())
        return f"{component.name}({arguments})"

    if "proposer" in data:
        settings = recipe.config.proposals
        given = "image, question" if proposes_by_text(recipe) else f"image, {settings.side} x {settings.side} points"
        stages.append(("candidates", call("proposer"), f"{given} -> at most {settings.k} masks, numbered"))
    if "prompt_interface" in data:
        stages.append(("render", call("prompt_interface"), "image, question -> messages"))
    if "reasoner" in data:
        stages.append(("completions", call("reasoner"), f"messages -> {sampling.num_generations} x text"))
    if "prompt_interface" in data:
        stages.append(("groundings", call("prompt_interface"), "text -> box, points in original pixels"))
    if "segmenter" in data and not is_grid(recipe):
        stages.append(("masks", call("segmenter"), f"image, {', '.join(recipe.config.prompt)} -> mask"))
    if recipe.terms:
        terms = ", ".join(f"{term.weight:g} {label}" for label, term in recipe.terms.items())
        stages.append(("scores", terms, "rollouts -> raw values, weighted sum"))
    width = max((len(stage) for stage, _, _ in stages), default=0)
    return "\n".join(f"{stage:<{width}}  {who}\n{'':<{width}}  {what}" for stage, who, what in stages)
