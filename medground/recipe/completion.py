"""What the shell completes: recipes by name or path, and overrides by component, from files and metadata alone."""

import click
from click.shell_completion import CompletionItem


class _Recipe(click.types.StringParamType):
    name = "recipe"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The shipped names, else files."""
        from medground.recipe import names

        found = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]


class _Override(click.types.StringParamType):
    name = "override"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """``kind=`` and, behind it, what is installed of that kind."""
        from medground.recipe import COMPONENTS
        from medground.registry import components

        before = [word for word in ctx.params.get(param.name or "") or () if word != "="]
        if before and before[-1] in COMPONENTS:  # bash makes words of what stands on the two sides of "="
            offered = [component.name for component in components(before[-1])]
        elif "=" in incomplete:
            offered = [f"{component.kind}={component.name}" for component in components()]
        else:
            offered = [f"{kind}=" for kind in COMPONENTS]
        return [CompletionItem(word) for word in sorted(set(offered)) if word.startswith(incomplete)]


RECIPE = _Recipe()
"""The type of a recipe argument or option."""
OVERRIDE = _Override()
"""The type of a ``KEY=VALUE`` argument."""
