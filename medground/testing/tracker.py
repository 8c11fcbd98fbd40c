"""Does a tracker keep the promises of `medground.protocols.Tracker`?"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medground.hookspecs import Factory
from medground.protocols import Tracker
from medground.testing.findings import ConformanceReport, Findings, make

METRICS = {"loss": 0.5, "reward/bbox_iou/mean": 0.25, "eval/iou": 1.0, "grad_norm": float("inf"), "kl": float("nan")}
"""Of a step: names with slashes, and numbers that are not finite, as a run can have them."""


def check_tracker(factory: Factory, /, *, quick: bool = False, **arguments: Any) -> ConformanceReport:
    """Check a tracker made by ``factory(**arguments)`` on a run of three steps that is interrupted and continued.

    Args:
        factory: makes the tracker.
        quick: leave out the continuation.
        arguments: of the factory.

    Returns:
        what was tried.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(factory)
    tracker = make(factory, arguments, findings)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checks = {
            "close before begin, as where a run fails early": partial(_check_unused, tracker, findings),
            "three steps, with odd names and numbers": partial(_check_steps, factory, arguments, folder, 0, findings),
        }
        if not quick:
            checks["two of the steps again, after an interruption"] = partial(
                _check_steps, factory, arguments, folder, 1, findings
            )
        findings.run(checks)
    return findings.conclude()


def _check_unused(tracker: Tracker, findings: Findings) -> None:
    with findings.attempt("close works before begin"):
        tracker.close()


def _check_steps(factory: Factory, arguments: dict[str, Any], folder: Path, done: int, findings: Findings) -> None:
    events = folder / "events.jsonl"
    events.write_text('{"step": 1}\n', encoding="utf-8")
    with findings.attempt("begin, log and close work in this order", f"with {done} steps done before"):
        tracker: Tracker = factory(**arguments)
        tracker.begin(folder, done)
        for step in range(done + 1, 4):
            metrics = dict(METRICS)
            tracker.log(step, metrics)
            findings.expect(repr(metrics) == repr(METRICS), "log leaves the metrics as they are", str(metrics))
        tracker.close()
    unchanged = events.is_file() and events.read_text(encoding="utf-8") == '{"step": 1}\n'
    findings.expect(unchanged, "it leaves the run's own files as they are", events.name)
