"""The settings of a recipe as dataclasses."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from medground.recipe import structured
from medground.recipe.schema import (
    DataConfig,
    EvaluateConfig,
    GeneralConfig,
    GrpoConfig,
    ProposalsConfig,
    SamplingConfig,
    SftConfig,
    SweepConfig,
    ValidationConfig,
    VolumeConfig,
)
from medground.types import ChosenKind, TextSource

T = TypeVar("T")


class ComponentConfig(NamedTuple):
    """A component that a recipe names."""

    name: str
    arguments: dict[str, Any]
    """Of its factory: an open mapping, bound to the factory's signature by `medground.registry.bind`."""


class TermConfig(NamedTuple):
    """A reward term that a recipe names."""

    name: str
    """Of the component."""
    weight: float
    """0 observes: the value is logged and not summed."""
    arguments: dict[str, Any]


class Config:
    """The settings of a recipe, read with their defaults: ``recipe.config.grpo.learning_rate``.

    A section is read when it is first used. It raises a `RecipeError` if one of its values must still be given. A
    section that the recipe does not have holds its defaults; ``"grpo" in recipe.data`` tells whether it is there.
    """

    def __init__(self, data: Mapping[str, Any], require: Callable[[str], None]) -> None:
        self._data, self._require = data, require

    @cached_property
    def prompt(self) -> list[ChosenKind]:
        """The kinds of prompt that are made of a region."""
        return self._general("prompt").prompt

    @cached_property
    def text_from(self) -> TextSource:
        """Where the text of a prompt comes from."""
        return self._general("text_from").text_from

    @cached_property
    def allow_untrained(self) -> bool:
        """Whether a segmenter may be given prompt kinds it was not trained for."""
        return self._general("allow_untrained").allow_untrained

    @cached_property
    def seed(self) -> int:
        """The seed of a training run."""
        return self._general("seed").seed

    @cached_property
    def sampling(self) -> SamplingConfig:
        """How a reasoner draws completions outside of training."""
        return self._section("sampling", SamplingConfig)

    @cached_property
    def proposals(self) -> ProposalsConfig:
        """What a proposer offers."""
        return self._section("proposals", ProposalsConfig)

    @cached_property
    def data(self) -> DataConfig:
        """The dataset and the samples of it that are used."""
        return self._section("data", DataConfig)

    @cached_property
    def grpo(self) -> GrpoConfig:
        """Training by group-relative policy optimization."""
        return self._section("grpo", GrpoConfig)

    @cached_property
    def sft(self) -> SftConfig:
        """Supervised fine-tuning on ideal answers."""
        return self._section("sft", SftConfig)

    @cached_property
    def validate(self) -> ValidationConfig:
        """Measurements during training."""
        return self._section("validate", ValidationConfig)

    @cached_property
    def evaluate(self) -> EvaluateConfig:
        """What an evaluation measures, and how."""
        return self._section("evaluate", EvaluateConfig)

    @cached_property
    def volume(self) -> VolumeConfig:
        """The slice of a volume that is asked about, and how targets are followed from there."""
        return self._section("volume", VolumeConfig)

    @cached_property
    def sweep(self) -> SweepConfig:
        """How the variants of a recipe are repeated and compared."""
        return self._section("sweep", SweepConfig)

    def _general(self, key: str) -> GeneralConfig:
        self._require(key)
        return structured.read(GeneralConfig, {key: self._data[key]})

    def _section(self, key: str, schema: type[T]) -> T:
        self._require(key)
        return structured.read(schema, self._data.get(key, {}))
