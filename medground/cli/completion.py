"""Shell completion of recipes and overrides. It reads files and metadata and imports no plugin."""

import click
from click.shell_completion import CompletionItem


class _Recipe(click.types.StringParamType):
    name = "recipe"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of shipped recipes, else files."""
        from medground.recipe import names

        shipped = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        return shipped or [CompletionItem(incomplete, type="file")]


class _Override(click.types.StringParamType):
    name = "override"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete ``kind=`` and, after it, the installed components of that kind."""
        from medground.recipe.schema import COMPONENTS, KINDS
        from medground.registry import components

        before = [word for word in ctx.params.get(param.name or "") or () if word != "="]
        if before and before[-1] in COMPONENTS:  # bash splits words at "="
            words = [component.name for component in components(KINDS[before[-1]])]
        elif "=" in incomplete:
            words = [f"{component.kind}={component.name}" for component in components()]
        else:
            words = [f"{kind}=" for kind in COMPONENTS]
        return [CompletionItem(word) for word in sorted(set(words)) if word.startswith(incomplete)]


RECIPE = _Recipe()
"""The type of a recipe argument or option."""
OVERRIDE = _Override()
"""The type of a ``KEY=VALUE`` argument."""
