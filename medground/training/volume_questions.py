"""Questions about volumes as training takes them: both exchanges are samples.

The first shows a montage and asks which slice it is; the second asks about a slice. See `medground.pipeline.slices`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medground.data.dataset import Dataset
from medground.data.filters import select
from medground.data.key_points import halves
from medground.data.volume_samples import VolumeSample, read_volume_samples
from medground.errors import RecipeError
from medground.geometry import mask_box
from medground.images.volume import Volume
from medground.pipeline.slices import SliceTruth, slice_query
from medground.recipe import Recipe
from medground.recipe.schema import SliceRule, VolumeConfig
from medground.types import Mask, Query, Region, Sample, Target

Exchange = Literal["slice", "answer"]
"""What an exchange gives: the number of a slice, or the answer on it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VolumeQuestion:
    """A question about a volume that is open; its slices are read when they are asked for."""

    source: VolumeSample
    volume: Volume
    plane: str
    truth: NDArray[np.bool_]
    """``[i, j, k]``."""
    tiles: int
    """Slices that the montage shows at most."""

    @property
    def slices(self) -> SliceTruth:
        """How much of the target each slice holds."""
        return SliceTruth.of(self.volume, self.plane, self.truth)

    def first(self) -> Sample:
        """Return the sample of the first exchange; its target is the slice that holds most of the volume's."""
        query = slice_query(
            self.volume, self.source.question, self.plane, window=self.source.window, tiles=self.tiles,
            id=f"{self.source.id}_slice",
        )  # fmt: skip
        assert query.candidates is not None, "a montage has slices"
        largest = self.slices.largest
        regions = () if largest is None else (query.candidates[largest],)
        return Sample(query=query, target=Target(regions=regions), labels=self.source.labels)

    def second(self, index: int) -> Sample:
        """Return the sample of the second exchange, about one slice; its target is absent where the slice holds none of it."""
        loaded = self.volume.slice(self.plane, index, window=self.source.window)
        placement = self.volume.placement(self.plane, index)
        mask = np.ascontiguousarray(placement.picture(np.take(self.truth, index, axis=placement.axis)))
        query = Query(
            image=loaded.pixels, question=self.source.question, id=f"{self.source.id}_{self.plane}_{index}",
            spacing=loaded.spacing,
        )  # fmt: skip
        region = Region(box=mask_box(mask), points=halves(mask), mask=Mask(data=mask)) if mask.any() else None
        target = Target(regions=() if region is None else (region,))
        return Sample(query=query, target=target, labels=self.source.labels, spacing=loaded.spacing)


@dataclass(frozen=True, slots=True)
class VolumeEntry:
    """The entry of one exchange about a volume, see `medground.data.dataset.Entry`."""

    source: VolumeSample
    config: VolumeConfig
    exchange: Exchange = "slice"

    @property
    def id(self) -> str:
        """See `Entry`."""
        return f"{self.source.id}_{self.exchange}"

    @property
    def split(self) -> str:
        """See `Entry`."""
        return self.source.split or ""

    @property
    def labels(self) -> Mapping[str, str]:
        """See `Entry`."""
        return self.source.labels

    @property
    def files(self) -> Mapping[str, Path]:
        """See `Entry`."""
        return {"image": self.source.volume, "mask": self.source.mask}

    @property
    def image_key(self) -> str:
        """See `Entry`: the same for first exchanges about one volume in one window, and for second ones about it."""
        return repr((self.source.volume, self.source.window, self.exchange))

    @property
    def stated(self) -> str:
        """See `Entry`."""
        source, config = self.source, self.config
        return repr(
            (source.question, source.values, source.window, sorted(source.labels.items()), config.plane, config.tiles)
        )

    def read(self) -> VolumeQuestion:
        """Open the volume and read the truth.

        Raises:
            InputError: if a file cannot be read.
        """
        volume, truth = self.source.read()
        return VolumeQuestion(
            source=self.source, volume=volume, plane=self.config.plane or volume.plane, truth=truth,
            tiles=self.config.tiles,
        )  # fmt: skip

    def load(self) -> Sample:
        """See `Entry`; the second exchange is about the slice that holds most of the target."""
        question = self.read()
        return question.first() if self.exchange == "slice" else question.second(question.slices.largest or 0)


def asks_for_slices(recipe: Recipe) -> bool:
    """Return True if a recipe that trains has the reasoner choose the slices of volumes."""
    return recipe.config.volume.slice is SliceRule.ask


def volume_questions(recipe: Recipe, exchanges: Sequence[Exchange]) -> Dataset[VolumeEntry]:
    """Return exchanges about the volume samples of ``data.path``; those of a volume follow one another.

    Raises:
        RecipeError: if the data is no folder.
        InputError: if it holds no volume samples, or naming the first that cannot be used.
    """
    data: Any = recipe.config.data
    if not isinstance(recipe.data_source, str | Path):
        raise RecipeError("volume.slice=ask trains on the volumes of a folder", hint="set data.path=DIR")
    samples = read_volume_samples(recipe.data_source, split=data.split)
    entries = [VolumeEntry(sample, recipe.config.volume, exchange) for sample in samples for exchange in exchanges]
    dataset = select(Dataset(entries), leave_out=data.leave_out)
    return dataset if data.limit is None else dataset[: data.limit * len(exchanges)]
