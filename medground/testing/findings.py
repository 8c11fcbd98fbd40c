"""Collecting broken promises, and the promises every factory makes."""

import contextlib
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

from medground.hookspecs import Factory
from medground.registry import RESERVED


class ConformanceError(AssertionError):
    """A component breaks its contract; the message lists every promise broken.

    Args:
        subject: the factory checked.
        broken: one sentence per broken promise.
    """

    def __init__(self, subject: str, broken: list[str]) -> None:
        lines = "".join(f"\n  {number}. {sentence}" for number, sentence in enumerate(broken, start=1))
        super().__init__(f"{subject} breaks {len(broken)} of its promises:{lines}")
        self.broken = broken


class Findings:
    """What was found wrong with one component so far."""

    def __init__(self, factory: Factory) -> None:
        self.subject = getattr(factory, "__qualname__", repr(factory))
        self.broken: list[str] = []
        self.first: BaseException | None = None

    def expect(self, kept: Any, promise: str) -> bool:
        """Note `promise` as broken unless `kept`; the same sentence is noted once."""
        if not kept and promise not in self.broken:
            self.broken.append(promise)
        return bool(kept)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Whatever the component raises inside is a broken promise; the check goes on after the block."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 any failure of the component under test is a finding
            self.first = self.first or error
            self.expect(False, f"{what} raises {type(error).__name__}: {error}")

    def conclude(self) -> None:
        """Raise for what was found, if anything; the first exception of the component is the cause."""
        if self.broken:
            raise ConformanceError(self.subject, self.broken) from self.first


def make(factory: Factory, arguments: dict[str, Any], findings: Findings) -> Any:
    """The component, after its factory's own promises: flat keyword-only arguments, defaults, picklable."""
    for parameter in inspect.signature(factory).parameters.values():
        findings.expect(parameter.name not in RESERVED, f"parameter {parameter.name!r} is a word of recipes")
        findings.expect(
            parameter.kind is parameter.KEYWORD_ONLY,
            f"parameter {parameter.name!r} must be keyword-only (put a * before it), not {parameter.kind.description}",
        )
        findings.expect(
            parameter.default is not parameter.empty or parameter.kind is parameter.VAR_KEYWORD,
            f"parameter {parameter.name!r} needs a default",
        )
    with findings.attempt("pickling the factory (it must be a class or function at the top of a module)"):
        pickle.loads(pickle.dumps(factory))
    component = None
    with findings.attempt(f"making it with {arguments}"):
        component = factory(**arguments)
    if component is None:
        findings.expect(False, f"made with {arguments}, it is None")
        findings.conclude()
    findings.expect(
        " object at 0x" not in repr(component), f"its repr should show its settings, not {repr(component)[:80]!r}"
    )
    return component


def check_kinds(holder: Any, attribute: str, findings: Findings) -> frozenset[str]:
    """The prompt kinds an attribute declares, or none where it is missing or malformed."""
    known = {"box", "points", "negative_points"}
    value = getattr(holder, attribute, None)
    good = isinstance(value, frozenset) and value and value <= known
    findings.expect(good, f"{attribute} must be a non-empty frozenset out of {sorted(known)}, not {value!r}")
    return value if isinstance(value, frozenset) else frozenset()
