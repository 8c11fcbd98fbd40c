"""Comparison with another evaluation of the same samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from medground.errors import InputError, did_you_mean
from medground.evaluation import summary
from medground.evaluation.results import BaselineComparison, Resampling
from medground.evaluation.results_file import SAMPLES, SampleRecord, read_records


class Baseline:
    """The records of another evaluation.

    Args:
        folder: of that evaluation.

    Raises:
        InputError: if its records cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.records: dict[str, list[SampleRecord]] = {}
        for record in read_records(folder / SAMPLES):
            self.records.setdefault(record.condition, []).append(record)

    def compare(self, records: Mapping[str, Sequence[SampleRecord]], how: Resampling) -> BaselineComparison:
        """Test the records of each condition against those of the same condition here.

        Raises:
            InputError: if there are none of these conditions and samples, or other targets under the same names.
        """
        shared = [condition for condition in records if condition in self.records]
        if not shared:
            hint = did_you_mean(next(iter(records)), self.records)
            raise InputError(f"the baseline {self.name} has none of these conditions", hint=hint)
        boxes = {record.id: record.target.box for record in self.records[shared[0]]}
        common = [record for record in records[shared[0]] if record.id in boxes]
        if not common:
            raise InputError(f"the baseline {self.name} has none of these samples", hint="evaluate it on the same data")
        if other := next((record for record in common if boxes[record.id] != record.target.box), None):
            raise InputError(
                f"the baseline {self.name} has another target for {other.id}", hint="evaluate it on the same data"
            )
        pairs = [
            summary.Pair(records[name], self.records[name], summary.COMPARED, against=self.name, condition=name)
            for name in shared
        ]
        return BaselineComparison(
            name=self.name, samples_in_common=len(common), comparisons=summary.comparisons(pairs, how)
        )
