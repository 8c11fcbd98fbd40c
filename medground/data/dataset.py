"""Datasets: sequences of samples whose images are read when a sample is indexed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Generic, Protocol, TypeVar, overload

from medground.data.source_samples import BadSample
from medground.errors import InputError, did_you_mean
from medground.types import Sample


class Entry(Protocol):
    """One sample of a dataset, its image unread."""

    @property
    def id(self) -> str:
        """Unique within its dataset."""

    @property
    def split(self) -> str:
        """For example ``train``."""

    @property
    def labels(self) -> Mapping[str, str]:
        """For example modality and category."""

    @property
    def files(self) -> Mapping[str, Path]:
        """``image`` and ``mask`` -> the file, of those that are files of their own."""

    @property
    def image_key(self) -> str:
        """The same for samples about one image; no pixel is decoded."""

    @property
    def stated(self) -> str:
        """All else that decides the sample: a text that differs where the samples do."""

    def load(self) -> Sample:
        """Read the image and the mask.

        Raises:
            InputError: if they cannot be read.
        """


@dataclass(frozen=True, slots=True)
class GivenSample:
    """The entry of a sample that is in memory; it has no split."""

    sample: Sample
    split: str = ""

    @property
    def id(self) -> str:
        """See `Entry`."""
        return self.sample.query.id

    @property
    def labels(self) -> Mapping[str, str]:
        """See `Entry`."""
        return self.sample.labels

    @property
    def files(self) -> Mapping[str, Path]:
        """See `Entry`."""
        return {}

    @property
    def image_key(self) -> str:
        """See `Entry`."""
        image = self.sample.query.image
        return sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()

    @property
    def stated(self) -> str:
        """See `Entry`."""
        query, regions = self.sample.query, self.sample.target.regions
        truth = [(region.box, region.points, region.labels, region.label) for region in regions]
        labels = sorted(self.sample.labels.items())
        digest = sha256(
            repr((query.question, query.image.shape, truth, labels, self.sample.spacing)).encode(
                "utf-8", "surrogatepass"
            )
        )
        for pixels in (query.image, *(region.mask.data for region in regions if region.mask is not None)):
            digest.update(pixels.tobytes())
        return digest.hexdigest()

    def load(self) -> Sample:
        """See `Entry`."""
        return self.sample


AnyEntry = TypeVar("AnyEntry", bound=Entry)


class Dataset(Sequence[Sample], Generic[AnyEntry]):
    """Samples in a fixed order, given by checked entries; indexing one reads its image and mask, a slice reads nothing.

    Args:
        entries: in order.
        files: what lists them.
        bad: what could not be used.
    """

    def __init__(self, entries: Sequence[AnyEntry], files: Sequence[Path] = (), bad: Sequence[BadSample] = ()) -> None:
        self.entries, self.files, self.bad = list(entries), list(files), list(bad)

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Dataset[AnyEntry]": ...
    def __getitem__(self, index: int | slice) -> "Sample | Dataset[AnyEntry]":
        if isinstance(index, slice):
            return Dataset(self.entries[index], self.files, self.bad)
        return self.entries[index].load()

    @property
    def ids(self) -> list[str]:
        """The id of every sample, in order; nothing is read."""
        return [entry.id for entry in self.entries]

    @property
    def splits(self) -> list[str]:
        """The split of every sample, in order; nothing is read."""
        return [entry.split for entry in self.entries]

    @property
    def labels(self) -> list[Mapping[str, str]]:
        """The labels of every sample, in order, as far as they are known before its image is read."""
        return [entry.labels for entry in self.entries]

    def where(self, keep: Callable[[AnyEntry], bool]) -> "Dataset[AnyEntry]":
        """Return the samples whose entry `keep` returns True for; perhaps none."""
        return Dataset([entry for entry in self.entries if keep(entry)], self.files, self.bad)

    def of_split(self, split: str) -> "Dataset[AnyEntry]":
        """Return the samples of one split.

        Raises:
            InputError: if there are none.
        """
        chosen = self.where(lambda entry: entry.split == split)
        if not len(chosen):
            raise InputError(f"no sample is in the split {split!r}", hint=did_you_mean(split, set(self.splits)))
        return chosen
