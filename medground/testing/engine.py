"""Does an engine keep the promises of `medground.protocols.Engine`, in one process?"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from medground.errors import RunError
from medground.hookspecs import Factory
from medground.protocols import Engine
from medground.testing.findings import ConformanceReport, Findings, make, shown

if TYPE_CHECKING:
    import torch

NORM, RATE, TOLERANCE = 0.1, 0.05, 1e-5
"""The largest norm of a gradient, the learning rate, and how far parameters may be from those of AdamW itself."""


def check_engine(factory: Factory, /, *, quick: bool = False, **arguments: Any) -> ConformanceReport:
    """Check an engine made by ``factory(**arguments)`` in this one process: steps are those of the optimizer it is given.

    Args:
        factory: makes the engine.
        quick: leave out saving and loading.
        arguments: of the factory.

    Returns:
        what was tried.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(factory)
    engine: Engine = make(factory, arguments, findings)
    for attribute, kind in {
        "rank": int,
        "world_size": int,
        "lockstep": bool,
        "zero_stage": int,
        "offload": bool,
    }.items():
        value = getattr(engine, attribute, None)
        findings.expect(type(value) is kind, f"{attribute} is {kind.__name__}", shown(value))
    checks: dict[str, Callable[[], None]] = {
        "three steps with gradients above and below the norm": partial(_check_steps, engine, findings),
        "gradients that are discarded, absent or not finite": partial(_check_odd, factory, arguments, findings),
        "what ranks exchange, alone": partial(_check_ranks, engine, findings),
    }
    if not quick:
        checks["saved and continued by another, refused by another model"] = partial(
            _check_saved, factory, arguments, findings
        )
    findings.run(checks)
    with findings.attempt("shutdown works"):
        engine.shutdown()
    return findings.conclude()


def _policy() -> "torch.nn.Module":
    import torch

    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def _named_otherwise() -> "torch.nn.Module":
    import torch

    return torch.nn.Sequential(_policy())


def _optimizer(parameters: "Iterable[torch.nn.Parameter]") -> "torch.optim.Optimizer":
    import torch

    return torch.optim.AdamW(parameters, lr=1.0)


def _loss(policy: "torch.nn.Module", scale: float) -> "torch.Tensor":
    import torch

    result: torch.Tensor = scale * policy(torch.tensor([[1.0, -2.0, 0.5]])).square().sum()
    return result


def _prepared(engine: Engine) -> "tuple[torch.nn.Module, torch.nn.Module]":
    policy = _policy()
    return policy, engine.prepare(policy, _optimizer, max_grad_norm=NORM)


def _distance(one: "torch.nn.Module", other: "torch.nn.Module") -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((first.detach() - second.detach()).abs().max()) for first, second in pairs)


def _check_steps(engine: Engine, findings: Findings) -> None:
    import torch

    promise = "steps are those of the optimizer given, with clipped gradients"
    with findings.attempt(promise):
        policy, module = _prepared(engine)
        reference = _policy()
        optimizer = _optimizer(reference.parameters())
        for scale in (1.0, 1e-3, 0.5):
            engine.backward(_loss(module, scale))
            norm = engine.step(RATE)
            _loss(reference, scale).backward()  # type: ignore[no-untyped-call]
            wanted = float(torch.nn.utils.clip_grad_norm_(reference.parameters(), NORM))
            optimizer.param_groups[0]["lr"] = RATE
            optimizer.step()
            optimizer.zero_grad()
            findings.expect(
                math.isclose(norm, wanted, rel_tol=1e-3),
                "step returns the norm before clipping",
                f"{norm}, not {wanted}",
            )
        distance = _distance(policy, reference)
        findings.expect(distance <= TOLERANCE, promise, f"parameters differ by {distance:.3g}")
        names = [name for name, _ in engine.named_weights()]
        findings.expect(
            names == list(policy.state_dict()), "named_weights are those of the policy, in order", shown(names)
        )


def _check_odd(factory: Factory, arguments: dict[str, Any], findings: Findings) -> None:
    promise = "a gradient that is discarded or not finite changes nothing"
    with findings.attempt(promise):
        engine: Engine = factory(**arguments)
        policy, module = _prepared(engine)
        engine.backward(_loss(module, 1.0))
        engine.discard()
        engine.backward(_loss(module, math.inf))
        norm = engine.step(RATE)
        findings.expect(
            not math.isfinite(norm), "step returns the norm before clipping", f"{norm} of an infinite gradient"
        )
        distance = _distance(policy, _policy())
        findings.expect(distance == 0, promise, f"parameters differ by {distance:.3g}")
        if not engine.lockstep:
            norm = engine.step(0.0)
            findings.expect(norm == 0, "without a backward the gradient is zero", f"its norm is {norm}")


def _check_ranks(engine: Engine, findings: Findings) -> None:
    with findings.attempt("a process that is alone exchanges with itself"):
        sums, values = engine.all_reduce({"a": 1.5}), engine.gather(("b", 2))
        findings.expect(sums == {"a": 1.5}, "all_reduce gives the sums over all ranks", shown(sums))
        findings.expect(values == [("b", 2)], "gather gives the values of all ranks", shown(values))
        with engine.full_parameters():
            pass


def _check_saved(factory: Factory, arguments: dict[str, Any], findings: Findings) -> None:
    promise = "another engine continues exactly from what was saved"
    with findings.attempt(promise), TemporaryDirectory() as temporary:
        folder, pair = Path(temporary), []
        for number in range(2):
            engine: Engine = factory(**arguments)
            policy, module = _prepared(engine)
            if number == 0:
                engine.backward(_loss(module, 1.0))
                engine.step(RATE)
                engine.save(folder)
            else:
                engine.load(folder)
            engine.backward(_loss(module, 0.5))
            engine.step(RATE)
            pair.append(policy)
        findings.expect(_distance(*pair) == 0, promise, f"parameters differ by {_distance(*pair):.3g}")
        other: Engine = factory(**arguments)
        other.prepare(_named_otherwise(), _optimizer, max_grad_norm=NORM)
        other_promise = "load raises RunError for what was saved of another model"
        try:
            other.load(folder)
            findings.expect(False, other_promise, "parameters of other names are taken")
        except RunError:
            pass
