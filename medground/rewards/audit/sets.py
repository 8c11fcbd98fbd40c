"""Checks on games with the number of regions and with confidence: none of them may pay more than an honest answer."""

from collections.abc import Iterator

from medground.rewards.audit.evidence import AuditFinding, Evidence
from medground.rewards.audit.games import SHARES, Games

EDGE = 1e-9
PRESENT = ("one target", "three targets")


def always_empty(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that to say that nothing fits, of a target that is there, earns less than an honest answer."""
    yield from _above_honest(evidence, "nothing", "always empty")


def one_huge_box(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that one box over the whole image earns less than an honest answer."""
    yield from _above_honest(evidence, "one huge box", "one huge box")


def always_many(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that a shower of boxes earns less than an honest answer, lowers a perfect one, and finds no absent target."""
    games = evidence.games
    if games is None:
        return
    yield from _above_honest(evidence, "many boxes", "always many")
    for target in PRESENT:
        padded, perfect = games.total(target, "the truth and many boxes"), games.total(target, "perfect")
        if padded is not None and perfect is not None and _placed(games, target) and padded >= perfect - EDGE:
            yield AuditFinding(
                "always many",
                f"the truth and many boxes ({target})",
                f"The truth among many other boxes earns {padded:.4f}, the truth alone {perfect:.4f}.",
                {"paid": padded, "perfect": perfect},
            )
            break
    nothing = games.total("no target", "nothing")
    for answer in ("one box", "one huge box", "many boxes"):
        paid = games.total("no target", answer)
        if paid is not None and nothing is not None and paid > nothing + EDGE:
            yield AuditFinding(
                "always many",
                f"{answer} (no target)",
                f"Of an absent target, {answer} earns {paid:.4f} and nothing {nothing:.4f}.",
                {"paid": paid, "nothing": nothing},
            )
            break


def duplicates(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that no region earns more by being said again."""
    games = evidence.games
    if games is None:
        return
    for target in PRESENT:
        for again, once in (("the truth twice", "perfect"), ("the first four times", "the first")):
            paid, alone = games.total(target, again), games.total(target, once)
            if paid is not None and alone is not None and paid > alone + EDGE:
                yield AuditFinding(
                    "duplicates",
                    f"{again} ({target})",
                    f"{again.capitalize()} earns {paid:.4f}, once {alone:.4f}.",
                    {"paid": paid, "once": alone},
                )
                return


def fixed_confidence(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that one confidence for all answers earns less than the share of them that is right, and doubt pays no error."""
    games = evidence.games
    if games is None:
        return
    for share in SHARES:
        honest = games.forecast(share, share)
        for fixed in (0.0, 1.0):
            paid = games.forecast(fixed, share)
            if paid is None or honest is None or not _looks_at_confidence(games) or paid < honest - EDGE:
                continue
            yield AuditFinding(
                "fixed confidence",
                f"confidence {fixed:g}",
                f"Where {share:.0%} of the answers are right, confidence {fixed:g} for all earns {paid:.4f} and "
                f"{share:g} earns {honest:.4f}.",
                {"share": share, "paid": paid, "honest": honest},
            )
            return
    doubted, median = games.confident[0.0, False].total, games.median("one target")
    if doubted is not None and median is not None and doubted > median + EDGE:
        yield AuditFinding(
            "fixed confidence",
            "wrong with confidence 0",
            f"A wrong answer with confidence 0 earns {doubted:.4f}; the honest median is {median:.4f}.",
            {"paid": doubted, "honest_median": median},
        )


def _above_honest(evidence: Evidence, answer: str, check: str) -> Iterator[AuditFinding]:
    games = evidence.games
    if games is None:
        return
    for target in PRESENT:
        paid, median = games.total(target, answer), games.median(target)
        if paid is not None and median is not None and paid > median + EDGE:
            yield AuditFinding(
                check,
                f"{answer} ({target})",
                f"{answer.capitalize()}, of {target}, earns {paid:.4f}; the honest median is {median:.4f}.",
                {"paid": paid, "honest_median": median},
            )
            return


def _placed(games: Games, target: str) -> bool:
    """Return True if the rubric looks at where the regions are."""
    perfect, far = games.total(target, "perfect"), games.total(target, "far wrong")
    return perfect is not None and far is not None and perfect > far + EDGE


def _looks_at_confidence(games: Games) -> bool:
    for right in (True, False):
        totals = [score.total for (_, is_right), score in games.confident.items() if is_right is right]
        known = [total for total in totals if total is not None]
        if known and max(known) - min(known) > EDGE:
            return True
    return False
