"""What the core itself offers to recipes, through the same hooks as any plugin: the trainer's defaults by their names."""

from typing import TYPE_CHECKING

from medground.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from medground.training.grpo.rollouts import OwnSampler
    from medground.training.local_engine import LocalEngine


def local() -> "LocalEngine":
    """One process: what a recipe without an ``engine`` trains with."""
    from medground.training.local_engine import LocalEngine

    return LocalEngine()


def hf() -> "OwnSampler":
    """The trained model samples for itself: what a recipe without a ``rollout`` does."""
    from medground.training.grpo.rollouts import OwnSampler

    return OwnSampler()


@hookimpl
def register_engines(register: Register) -> None:
    """Offer the engine."""
    register("local", local)


@hookimpl
def register_rollouts(register: Register) -> None:
    """Offer the sampler."""
    register("hf", hf)
