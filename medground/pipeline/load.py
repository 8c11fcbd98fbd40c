"""From a recipe to a pipeline."""

from medground.pipeline.cache import StageCache
from medground.pipeline.pipeline import Pipeline
from medground.protocols import PromptInterface, Reasoner, Segmenter
from medground.recipe import check, resolve
from medground.recipe.recipe import Source


def load(
    recipe: Source,
    *overrides: str,
    reasoner: Reasoner | None = None,
    prompt_interface: PromptInterface | None = None,
    segmenter: Segmenter | None = None,
    proposer: Segmenter | None = None,
    cache: StageCache | None = None,
) -> Pipeline:
    """Return the pipeline of a recipe; components are built when they are first needed.

    >>> import medground
    >>> medground.load("infer/toy", "segmenter=ellipse")
    Pipeline(reasoner=toy, prompt_interface=bbox_points, segmenter=ellipse)

    Args:
        recipe: a shipped name such as ``"infer/toy"``, a path, a run folder, a mapping, or a resolved recipe.
        overrides: ``"a.b=c"`` strings, as on the command line.
        reasoner: an object in place of the component that the recipe names.
        prompt_interface: the same.
        segmenter: the same.
        proposer: the same.
        cache: where completions and masks are kept, if at all; pipelines share what they have in common in one.

    Raises:
        RecipeError: if the recipe cannot be used as written, or is of a run that was given an object in the place of a
            component, and the object is not given again.
        PluginError: if it names a component that is missing, broken or ambiguous.
    """
    given = {
        "reasoner": reasoner, "prompt_interface": prompt_interface, "segmenter": segmenter, "proposer": proposer,
    }  # fmt: skip
    values = {kind: component for kind, component in given.items() if component is not None}
    resolved = resolve(recipe, *overrides, values=values)
    check(resolved)
    return Pipeline.from_recipe(resolved, cache=cache)
