"""Checks on what must not pay: wrong answers, broken ones, empty shells; and on what must never come out."""

from collections.abc import Iterator

from medground.rewards.audit.evidence import ASKED, AuditFinding, Evidence, pay, prefers_wrong
from medground.rewards.audit.probes import MISPLACED, WRONG_PROBES
from medground.rewards.audit.scenes import LARGE, REFERENCE

FORMAT = 0.25
"""The most of the maximum that a well-formed answer in the wrong place may earn."""
WORDS = {"nan": "NaN", "infinite": "an infinity", "released": "what was NaN or infinite as released"}


def inside_out(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that an inside-out box earns no more than no box."""
    scores = evidence.probes[REFERENCE.name]
    paid, without = scores["inside-out box"].total, scores["no box"].total
    scale = evidence.maximum or evidence.perfect.total
    if paid is None or without is None or not scale or paid - without <= 0.01 * scale:
        return
    yield AuditFinding(
        "inside-out box paid",
        "rubric",
        f"An inside-out box with the right points earns {paid:.4f} of {scale:g}; without a box it would be "
        f"{without:.4f}.",
        {"paid": paid, "without": without, "maximum": scale},
    )


def wrong_answers(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that no wrong answer earns more than an honest one, and no term prefers a wrong answer to a perfect one."""
    for probe in WRONG_PROBES:
        for scene in ASKED:
            total, median = evidence.probes[scene.name][probe].total, evidence.median(scene)
            if total is not None and median is not None and total > median + 1e-9:
                yield AuditFinding(
                    "wrong answer above the honest median",
                    probe,
                    f"{probe.capitalize()} earns {total:.4f}; the honest median is {median:.4f}.",
                    {"paid": total, "honest_median": median},
                )
                break
    median = evidence.median(LARGE)
    if evidence.best and median is not None and evidence.best[1] > median + 1e-9:
        yield AuditFinding(
            "wrong answer above the honest median",
            "search",
            f"A wrong answer found by search earns {evidence.best[1]:.4f}; the honest median is {median:.4f}.",
            {"paid": evidence.best[1], "honest_median": median, "text": evidence.best[0]},
        )
    yield from _preferred(evidence)


def _preferred(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that no term pays a wrong answer more than a perfect one, nor as much where it looks at the place."""
    for term in evidence.terms:
        if prefers_wrong(evidence, term):
            continue
        placed = evidence.looks_at(term.label, "box") or evidence.looks_at(term.label, "points")
        for probe in (*WRONG_PROBES, "coincident points"):
            scores = evidence.probes[REFERENCE.name]
            wrong, right = pay(scores[probe], term.label), pay(scores["perfect"], term.label)
            if wrong is None or right is None:
                continue
            as_much = placed and probe in MISPLACED and right > 0 and wrong >= right - 1e-6
            if as_much or wrong > right + 1e-6:
                yield AuditFinding(
                    "wrong answer preferred",
                    f"{term.label}: {probe}",
                    f"{term.label} pays {wrong:.4g} for {probe} and {right:.4g} for a perfect answer.",
                    {"paid": wrong, "perfect": right},
                )


def coincident(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that points that coincide earn no more than honest points, by any term that looks at points."""
    for term in evidence.terms:
        paid = pay(evidence.probes[REFERENCE.name]["coincident points"], term.label)
        median = evidence.median(REFERENCE, term.label)
        if paid is None or median is None or paid <= median + 1e-9 or not evidence.looks_at(term.label, "points"):
            continue
        yield AuditFinding(
            "coincident points paid",
            term.label,
            f"{term.label} pays {paid:.4g} for two points in one place; its honest median is {median:.4g}.",
            {"paid": paid, "honest_median": median},
        )


def format_share(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that at most a quarter of the maximum is paid to a well-formed answer in the wrong place."""
    score = evidence.probes[REFERENCE.name]["far wrong"]
    total, maximum = score.total, evidence.maximum or evidence.perfect.total
    blind = [
        term.label
        for term in evidence.terms
        if not evidence.looks_at(term.label, "box") and not evidence.looks_at(term.label, "points")
    ]
    if len(blind) == len(evidence.terms) == 1 or total is None or not maximum or total <= FORMAT * maximum + 1e-9:
        return
    form = sum(pay(score, label) or 0.0 for label in blind)
    yield AuditFinding(
        "format share",
        "rubric",
        f"A well-formed answer that is far wrong earns {total:.4f} of {maximum:g} ({total / maximum:.0%}): {form:g} by "
        f"terms that never look at the place, {total - form:.4f} by floors of the others.",
        {"paid": total, "format": form, "floors": total - form, "maximum": maximum},
    )


def quotes(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that an answer in the quotes the prompt shows earns what the same answer in JSON earns."""
    scores = evidence.probes[REFERENCE.name]
    shown, json = scores["single quotes"].total, scores["perfect"].total
    if evidence.scorer.single_quoted and shown is not None and json is not None and shown < json - 1e-6:
        yield AuditFinding(
            "quote style",
            "rubric",
            f"A perfect answer in the single quotes the prompt shows earns {shown:.4g}, in double quotes {json:.4g}.",
            {"shown": shown, "json": json},
        )


def numbers(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that every term answers every probe with a finite number, or abstains."""
    for term in evidence.terms:
        failed = [
            (subject, failure)
            for subject, score in evidence.everything()
            if (failure := score.terms[term.label].failure) is not None
        ]
        if failed:
            subject, failure = failed[0]
            what = WORDS.get(failure.kind)
            how = f"gives {what}" if what else f"fails ({failure.cause})"
            yield AuditFinding(
                "not a finite number" if what else "fails",
                term.label,
                f"{term.label} {how} on {len(failed)} of the answers subject, first on {subject}.",
                {"count": len(failed), "kind": failure.kind, "first": subject},
            )
