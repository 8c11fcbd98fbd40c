"""The judgements of an audit: each check reads the evidence and names what it finds; sound rubrics leave all silent."""

from collections.abc import Callable, Iterator

from medground.rewards.audit import gaming, sets, shape
from medground.rewards.audit.evidence import AuditFinding, Evidence

CHECKS: tuple[Callable[[Evidence], Iterator[AuditFinding]], ...] = (
    shape.full_marks,
    shape.small_targets,
    shape.dead,
    shape.flipped,
    shape.monotone,
    shape.plateau,
    shape.blind,
    shape.absolute_pixels,
    gaming.inside_out,
    gaming.wrong_answers,
    gaming.coincident,
    gaming.format_share,
    gaming.quotes,
    sets.always_empty,
    sets.one_huge_box,
    sets.always_many,
    sets.duplicates,
    sets.fixed_confidence,
    gaming.numbers,
)
"""In the order in which a card lists them."""


def judge(evidence: Evidence) -> list[AuditFinding]:
    """Return all findings, in the order of the checks."""
    return [finding for check in CHECKS for finding in check(evidence)]
