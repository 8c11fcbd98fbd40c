"""The reward card: what an audit found, as data, as a page and as curves."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medground.report import Line, panels
from medground.rewards.audit.evidence import ASKED, AuditFinding, Evidence, pay, top
from medground.rewards.audit.probes import CURVES, WRONG_PROBES, errors
from medground.rewards.audit.scenes import LARGE, REFERENCE
from medground.rewards.audit.shares import AdvantageShares
from medground.runs.files import write_atomic
from medground.runs.jsonable import plain


@dataclass(frozen=True, slots=True)
class Card:
    """One rubric's card."""

    name: str
    """The recipe or term, with its overrides."""
    seed: int
    evidence: Evidence
    findings: list[AuditFinding]
    advantage: AdvantageShares | None = None
    """Which term decides the advantages of some completions; None where there are none."""

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON-ready values; a score that could not be given is null."""
        evidence = self.evidence
        data = {
            "name": self.name,
            "seed": self.seed,
            "interface": repr(evidence.scorer.interface),
            "terms": {
                term.label: {"weight": term.weight, "most": top(term), "component": repr(term.reward)}
                for term in evidence.terms
            },
            "maximum": evidence.maximum,
            "perfect": evidence.perfect.total,
            "honest_median": {scene.name: evidence.median(scene) for scene in ASKED},
            "best_paid_wrong": evidence.best and {"total": evidence.best[1], "text": evidence.best[0]},
            "findings": [asdict(finding) for finding in self.findings],
            "probes": {
                scene: {
                    probe: {
                        "total": score.total,
                        "terms": {label: term.value for label, term in score.terms.items()},
                        "failures": [failure.cause for failure in score.failures],
                    }
                    for probe, score in by_probe.items()
                }
                for scene, by_probe in evidence.probes.items()
            },
            "curves": {
                scene: {
                    curve: {"error": list(errors(CURVES[curve])), "total": [score.total for score in scores]}
                    for curve, scores in by_curve.items()
                }
                for scene, by_curve in evidence.curves.items()
            },
            "advantage": self.advantage and asdict(self.advantage),
            "games": evidence.games and {answer: score.total for answer, score in evidence.games.everything()},
        }
        return plain(data)  # type: ignore[no-any-return]

    def markdown(self) -> str:
        """Return the card as a page."""
        evidence = self.evidence
        lines = [f"# Reward card: {self.name}", "", *self._figures(), "", "## Findings", ""]
        lines += [f"- **{finding.check}**: {finding.says}" for finding in self.findings] or ["None."]
        lines += self._shares()
        lines += [
            "",
            "## What every answer earns",
            "",
            f"About the {REFERENCE.name} target; wrong answers are marked.",
            "",
        ]
        labels = [term.label for term in evidence.terms]
        lines += [f"| answer | total | {' | '.join(labels)} |", f"|---|---|{'---|' * len(labels)}"]
        for probe, score in evidence.probes[REFERENCE.name].items():
            mark = " ✗" if probe in WRONG_PROBES else ""
            cells = [_cell(score.terms[label].value, score.terms[label].failure is not None) for label in labels]
            lines.append(f"| {probe}{mark} | {_cell(score.total, bool(score.failures))} | {' | '.join(cells)} |")
        if evidence.best:
            lines += ["", "The highest-paid wrong answer that was found:", "", f"    {evidence.best[0]}"]
        lines += self._games()
        lines += ["", "## Curves", "", "![what each term pays as the error grows](curves.svg)", ""]
        return "\n".join(lines)

    def _shares(self) -> list[str]:
        advantage = self.advantage
        if advantage is None:
            return []
        weights = {term.label: term.weight for term in self.evidence.terms}
        signals = advantage.groups - advantage.constant
        lines = ["", "## Which term decides the advantage", ""]
        lines += [
            f"Shares of the variance of advantages over {advantage.completions} completions {advantage.source}: "
            f"{advantage.groups} groups, {signals} of them with a signal.",
            "",
            "| term | weight | share |",
            "|---|---|---|",
        ]
        rows = advantage.shares.items() if signals else ()
        return lines + [f"| {label} | {_cell(weights.get(label), False)} | {share:.3f} |" for label, share in rows]

    def _games(self) -> list[str]:
        games = self.evidence.games
        lines = ["", "## None, one and many", ""]
        if games is None:
            return [
                *lines,
                "Not asked: the prompt interface names one region. `prompt_interface=regions` names none, one or many.",
            ]
        lines += ["| answer | of what | total |", "|---|---|---|"]
        for target, scores in games.scores.items():
            lines += [f"| {name} | {target} | {_cell(score.total, score.failed)} |" for name, score in scores.items()]
        lines += [f"| honest, median | {target} | {_cell(games.median(target), False)} |" for target in games.honest]
        return lines

    def _figures(self) -> list[str]:
        evidence = self.evidence
        best = evidence.best[1] if evidence.best else None
        rows = {
            "maximum by weights and ranges": evidence.maximum,
            "perfect answer": evidence.perfect.total,
            "honest median (truth ±10 %)": evidence.median(REFERENCE),
            "best-paid wrong answer found": best,
            "well-formed, far wrong": evidence.probes[REFERENCE.name]["far wrong"].total,
        }
        return ["| | |", "|---|---|", *(f"| {what} | {_cell(value, False)} |" for what, value in rows.items())]

    def curves(self) -> str:
        """Return the curves of the large target as SVG: what the total and every term that moves pay, 1 where perfect."""
        evidence = self.evidence
        drawn: dict[str, dict[str, Line]] = {}
        for name, scores in evidence.curves[LARGE.name].items():
            steps = [float(error) for error in errors(CURVES[name])]
            rows = {"total": [score.total for score in scores]}
            rows |= {term.label: [pay(score, term.label) for score in scores] for term in evidence.terms}
            lines = {label: _line(steps, values) for label, values in rows.items()}
            drawn[name] = {label: line for label, line in lines.items() if label == "total" or len(set(line[1])) > 1}
        return panels(f"{self.name}: pay by relative error, 1 where perfect", drawn)

    def write(self, folder: Path) -> list[Path]:
        """Write card.md, card.json and curves.svg; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "card.md": self.markdown(),
            "card.json": json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n",
            "curves.svg": self.curves(),
        }
        for name, text in texts.items():
            write_atomic(folder / name, text)
        return [folder / name for name in texts]


def _line(steps: list[float], values: list[float | None]) -> Line:
    """Return a line of values as shares of the first; as they are where the first is 0, and none where it is missing."""
    first = values[0] if values else None
    if first is None:
        return [], []
    pairs = [(step, value / (first or 1.0)) for step, value in zip(steps, values, strict=True) if value is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _cell(value: float | None, failed: bool) -> str:
    if value is None:
        return "fails" if failed else "–"
    return f"{value:.4f}".rstrip("0").rstrip(".") if value % 1 else f"{value:g}"
