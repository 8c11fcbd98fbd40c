"""Doing checks one after the other, collecting broken promises, and the promises every factory makes."""

import contextlib
import inspect
import logging
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from medground.hookspecs import RESERVED, Factory
from medground.licences import Published, Terms
from medground.progress import counted
from medground.types import Mask, PromptKind

log = logging.getLogger("medground.testing")


class ConformanceError(AssertionError):
    """A component breaks its contract; the message lists every promise broken.

    Args:
        subject: the factory checked.
        broken: one sentence per broken promise, with the first culprit.
    """

    def __init__(self, subject: str, broken: list[str]) -> None:
        lines = "".join(f"\n  {number}. {sentence}" for number, sentence in enumerate(broken, start=1))
        super().__init__(f"{subject} breaks {len(broken)} of its promises:{lines}")
        self.broken = broken


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformanceReport:
    """What was tried on a component that keeps its promises."""

    subject: str
    """The factory checked."""
    checks: tuple[str, ...]
    """What was tried, in a line each."""

    def __str__(self) -> str:
        lines = "".join(f"\n  {number}. {what}" for number, what in enumerate(self.checks, start=1))
        return f"{self.subject} keeps its promises in {len(self.checks)} checks:{lines}"


class Findings:
    """Which promises one component broke so far, and with what."""

    def __init__(self, factory: Factory) -> None:
        self.subject = getattr(factory, "__qualname__", repr(factory))
        self.culprits: dict[str, list[str]] = {}
        self.first: BaseException | None = None
        self.checks: list[str] = []

    def run(self, checks: Mapping[str, Callable[[], None]]) -> None:
        """Do checks by what they try, with a line in the log for each, and a bar."""
        with counted(f"checking {self.subject}", unit="check") as report:
            for number, (what, check) in enumerate(checks.items()):
                log.info("checking %s: %s", self.subject, what)
                report(number, len(checks), what)
                check()
                self.checks.append(what)
            report(len(checks), len(checks))

    def expect(self, holds: Any, promise: str, culprit: str = "") -> bool:
        """Note `promise` as broken by `culprit` unless `kept`."""
        if not holds:
            self.culprits.setdefault(promise, []).append(culprit)
        return bool(holds)

    @contextlib.contextmanager
    def attempt(self, promise: str, culprit: str = "") -> Iterator[None]:
        """Count whatever the component raises inside as breaking `promise`, and continue after the block."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 any failure of the component under test is a finding
            self.fail(promise, culprit, error)

    def fail(self, promise: str, culprit: str, error: Exception) -> None:
        """Note `promise` as broken because of `error`."""
        self.first = self.first or error
        self.expect(False, promise, f"{culprit} raises {type(error).__name__}: {error}".strip())

    def conclude(self) -> ConformanceReport:
        """Return what was tried; raise for what was found, if anything; the component's first exception is the cause."""
        if self.culprits:
            raise ConformanceError(
                self.subject, [_sentence(promise, culprits) for promise, culprits in self.culprits.items()]
            ) from self.first
        return ConformanceReport(subject=self.subject, checks=tuple(self.checks))


def _sentence(promise: str, culprits: list[str]) -> str:
    more = f" (and {len(culprits) - 1} more)" if len(culprits) > 1 else ""
    return f"{promise}: {culprits[0]}{more}" if culprits[0] else promise


def shown(value: Any) -> str:
    """Return a value for a sentence: arrays by shape and dtype, the rest by a short repr."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    if isinstance(value, Mask):
        return f"Mask({shown(value.data)}, {value.score!r})"
    if isinstance(value, list | tuple):
        inside = ", ".join(shown(item) for item in value[:3]) + ", ..." * (len(value) > 3)
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def make(factory: Factory, arguments: dict[str, Any], findings: Findings) -> Any:
    """Return the component, after its factory's promises: flat keyword-only arguments, defaults, terms, picklable."""
    _check_published(factory, findings)
    for parameter in inspect.signature(factory).parameters.values():
        findings.expect(
            parameter.name not in RESERVED, "no parameter may be a word of recipes, name or weight", str(parameter)
        )
        findings.expect(
            parameter.kind is parameter.KEYWORD_ONLY,
            "every parameter must be keyword-only (put a * before the first)",
            str(parameter),
        )
        findings.expect(
            parameter.default is not parameter.empty or parameter.kind is parameter.VAR_KEYWORD,
            "every parameter needs a default",
            str(parameter),
        )
    with findings.attempt("the factory can be pickled: it is a class or function at the top of a module"):
        pickle.loads(pickle.dumps(factory))
    try:
        component = factory(**arguments)
    except Exception as error:  # noqa: BLE001 whatever it is, there is nothing to check further
        findings.fail("it can be made", f"factory(**{arguments})", error)
        findings.conclude()
    findings.expect(" object at 0x" not in repr(component), "its repr shows its settings", shown(component))
    return component


def _check_published(factory: Factory, findings: Findings) -> None:
    """Check what a factory declares of published weights, which ``medground fetch`` shows before it downloads them."""
    published = getattr(factory, "published", ())
    well_formed = isinstance(published, tuple) and all(isinstance(entry, Published) for entry in published)
    promise = "published is a tuple of medground.licences.Published"
    if not findings.expect(well_formed, promise, shown(published)):
        return
    for entry in published:
        named = re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w./-]+)?", entry.id) or Path(entry.id).exists()
        findings.expect(named, "published weights have a hub id, or are a file of the package", entry.id)
        findings.expect(
            isinstance(entry.terms, Terms) and (entry.terms.licence or entry.terms.note),
            "published weights state their licence, or in a note why there is none",
            entry.id,
        )
        findings.expect(
            not isinstance(entry.terms, Terms) or entry.terms.licence or not entry.terms.commercial,
            "weights without a licence do not allow commercial use",
            entry.id,
        )


def check_kinds(holder: Any, attribute: str, findings: Findings) -> frozenset[str]:
    """Return the prompt kinds an attribute declares; where it is malformed, as much of it as can be used to go on."""
    known = set(get_args(PromptKind))
    value = getattr(holder, attribute, None)
    good = isinstance(value, frozenset) and value and value <= known
    findings.expect(good, f"{attribute} is a non-empty frozenset out of {sorted(known)}", shown(value))
    return frozenset(known & set(value)) if isinstance(value, frozenset | set | tuple | list) else frozenset({"box"})
