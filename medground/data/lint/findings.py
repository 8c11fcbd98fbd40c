"""Findings of the linter: one per fault, by a code that stays the same."""

from dataclasses import dataclass, field
from typing import Any, Literal

from medground.data.duplicates import Fingerprint
from medground.data.manifest import Record
from medground.data.region_props import RegionProps
from medground.data.splits import Owners

Severity = Literal["error", "warning"]

CODES: dict[str, tuple[Severity, str]] = {
    "not_json": ("error", "fix or remove the line"),
    "bad_word": ("error", "write the word as docs/data.md states it"),
    "missing_word": ("error", "add the word, or remove the line"),
    "duplicate_id": ("error", "give every line an id of its own"),
    "bad_number": ("error", "write finite numbers: bbox_2d has four, each of point_2d two"),
    "inverted_box": ("error", "write x1, y1, x2, y2 with x1 < x2 and y1 < y2"),
    "degenerate_box": ("error", "take the box from the mask: medground.geometry.mask_box"),
    "box_out_of_frame": ("error", "write pixels of the image itself; was it resized?"),
    "point_out_of_frame": ("error", "write pixels of the image itself, x before y"),
    "point_outside_mask": ("error", "take the points from the mask: medground data build"),
    "equal_points": ("error", "take the points from the mask: medground data build"),
    "bad_split": ("error", "name it train, val or test"),
    "no_split": ("warning", "name the split of every line, or of none"),
    "unknown_modality": ("warning", "correct the spelling; a modality of your own is no fault"),
    "label_spelling": ("warning", "spell one thing one way, or it is counted as two"),
    "empty_question": ("error", "write a question, or build with --questions templates"),
    "short_question": ("warning", "write a question that can be answered from the image"),
    "question_names_target": ("error", "ask by place, look or function instead"),
    "question_contradicts_box": ("error", "correct the side; left and right are those of the picture"),
    "question_repeated": ("error", "say in each question which target is meant"),
    "think_contradicts_box": ("error", "correct or remove the reasoning trace"),
    "outside_folder": ("error", "keep files inside the dataset's folder"),
    "missing_file": ("error", "restore the file, or remove the line"),
    "unreadable_image": ("error", "export the image again"),
    "unreadable_mask": ("error", "export the mask again"),
    "blank_image": ("error", "export the image again; its window may have missed all of it"),
    "size_stated": ("error", "take the size from the image, height first"),
    "exif_orientation": ("warning", "save the image upright, and draw the mask on the upright image"),
    "size_mismatch": ("error", "export mask and image from one source, or resize neither"),
    "transposed_mask": ("error", "transpose the mask: rows and columns are exchanged"),
    "empty_mask": ("error", 'remove the line; where the target is absent, write "regions": [] instead of a mask'),
    "absent_target_marked": (
        "warning",
        "decide which holds, an absent target or the mask; both may, of other questions",
    ),
    "full_mask": ("error", "was the background exported? otherwise remove the line"),
    "many_valued_mask": ("warning", "say which value is meant: a label map holds several targets"),
    "inclusive_box": ("error", "add 1 to x2 and y2: boxes are half-open here"),
    "turned_mask": ("error", "turn the mask or the image back: the box fits the one turned"),
    "other_frame": ("error", "convert the box to pixels of the image"),
    "box_mask_mismatch": ("error", "take the box from the mask: medground.geometry.mask_box"),
    "duplicate_across_splits": ("error", "build the splits anew: medground data build --splits make"),
    "near_duplicate_across_splits": ("warning", "build the splits anew, or look at the two and keep them"),
    "group_across_splits": ("error", "build the splits anew: medground data build --splits make"),
    "label_conflict": ("error", "decide which label holds"),
    "duplicate_sample": ("warning", "remove one of them"),
}
"""Code -> (severity, remedy). An error makes numbers wrong; a warning may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault."""

    code: str
    """A key of `CODES`."""
    id: str
    """The sample's id, or ``line N`` where it has none."""
    line: int
    """In manifest.jsonl, from 1."""
    says: str
    """One sentence."""

    @property
    def severity(self) -> Severity:
        """``error`` or ``warning``."""
        return CODES[self.code][0]

    @property
    def remedy(self) -> str:
        """The way to fix it."""
        return CODES[self.code][1]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "code": self.code, "severity": self.severity, "id": self.id, "line": self.line, "says": self.says,
            "remedy": self.remedy,
        }  # fmt: skip


@dataclass(slots=True, eq=False)
class Line:
    """A line of the manifest with what was learnt from its files."""

    record: Record
    findings: list[Finding] = field(default_factory=list)
    fingerprint: Fingerprint | None = None
    """Of the image."""
    props: RegionProps | None = None
    mask_digest: str = ""
    """Empty where there is no mask that can be used."""
    owners: Owners = field(default_factory=dict)
    """What it belongs to, see `medground.data.splits`."""
    split: str = ""
    """As stated, else as it is given; empty where neither can be."""

    @property
    def id(self) -> str:
        """The sample's id, or ``line N`` where it states none."""
        return self.record.id or f"line {self.record.number}"

    @property
    def readable(self) -> bool:
        """True if the line is a JSON object."""
        return all(flaw.word for flaw in self.record.flaws)

    @property
    def wrong(self) -> set[str]:
        """The words of the line that are not what they must be."""
        return {flaw.word for flaw in self.record.flaws}

    def add(self, code: str, says: str) -> None:
        """Note a fault."""
        self.findings.append(Finding(code=code, id=self.id, line=self.record.number, says=says))

    def label(self, word: str) -> str:
        """Return a label, or an empty text."""
        return self.record.labels.get(word, "")

    @property
    def question(self) -> str:
        """The question, or an empty text."""
        return self.record.question or ""
