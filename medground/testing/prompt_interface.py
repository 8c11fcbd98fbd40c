"""Does a prompt interface keep the promises of `medground.protocols.PromptInterface`?"""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, get_args

import numpy as np

from medground.frames import Frame, Kind, Order, pixels
from medground.geometry import Box, Point, Size
from medground.hookspecs import Factory
from medground.protocols import PromptInterface
from medground.testing import examples
from medground.testing.findings import ConformanceReport, Findings, check_kinds, make, shown
from medground.types import Completion, Fault, Grounding, Query, Target, image_of, text_of

SIZES = ((37, 53), (480, 640), (1024, 100))
MODEL_SIZE = (420, 616)
"""(H, W) that the model of the round trips saw."""


def check_prompt_interface(factory: Factory, /, *, quick: bool = False, **arguments: Any) -> ConformanceReport:
    """Check a prompt interface made by ``factory(**arguments)``: what it asks, and that it can read any answer.

    Args:
        factory: makes the interface.
        quick: try one image size instead of three, and 20 malformed texts instead of all.
        arguments: of the factory.

    Returns:
        what was tried.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(factory)
    interface = make(factory, arguments, findings)
    provides = check_kinds(interface, "provides", findings)
    with findings.attempt("it can be pickled, as worker processes do"):
        pickle.loads(pickle.dumps(interface))

    def render() -> None:
        with findings.attempt("render gives one user turn, image first"):
            _check_render(interface, examples.query(), findings)

    def split() -> None:
        with findings.attempt("an interface that splits a query joins what is said about its parts"):
            _check_parts(interface, examples.query((1024, 1100)), findings)

    def choose() -> None:
        with findings.attempt("an interface that chooses reads the numbers of a query's candidates"):
            _check_candidates(interface, examples.query(), findings)

    counts: set[int] = set()

    def numbers_of_regions() -> None:
        counts.update(_check_numbers_of_regions(interface, findings))

    def round_trips(size: Size) -> None:
        for frame in _frames(size):
            with findings.attempt("parse reads the ideal answer", f"a {size} image through {frame}"):
                _check_round_trip(interface, provides, size, frame, findings)

    def think() -> None:
        with findings.attempt("parse reads thoughts as they were written"):
            _check_think(interface, findings)

    def parse_nonsense() -> None:
        for text in islice(nasty_texts(interface), 20 if quick else None):
            _check_total(interface, text, 0 in counts, findings)

    checks: dict[str, Callable[[], None]] = {"a question as a conversation": render}
    if hasattr(interface, "among"):
        checks["a query with candidates"] = choose
    if hasattr(interface, "split"):
        checks["a query in parts"] = split
    for height, width in SIZES[: 1 if quick else None]:
        words = f"the ideal answer about a {height} x {width} image, in every frame"
        checks[words] = partial(round_trips, (height, width))
    checks["the ideal answers about no region and about three"] = numbers_of_regions
    checks |= {"an answer with thoughts": think, "malformed texts": parse_nonsense}
    findings.run(checks)
    return findings.conclude()


def _knowing(interface: Any, target: Target) -> PromptInterface:
    """Return an interface as it is asked about a target: one that chooses has the target's regions as candidates."""
    knowing: PromptInterface = interface.among(target.regions) if hasattr(interface, "among") else interface
    return knowing


def _check_candidates(interface: Any, query: Query, findings: Findings) -> None:
    candidates = examples.target(query.size).regions
    shown_image = image_of(interface.render(replace(query, candidates=candidates)))
    findings.expect(not np.array_equal(shown_image, query.image), "render shows the candidates of a query")
    alone = interface.among(())
    perfect = _knowing(interface, Target(regions=candidates)).answer(Target(regions=candidates))
    grounding = alone.parse(Completion(text=perfect, frame=None), query.size)
    findings.expect(
        grounding.fault is not None and not grounding.regions,
        "a candidate that does not exist is a fault",
        shown(grounding),
    )


def nasty_texts(interface: PromptInterface) -> Iterator[str]:
    """Yield what models really write when they fail: cut off, doubled, unbalanced, huge, not numbers, not text."""
    perfect = ""
    size = (37, 53)
    try:
        interface = _knowing(interface, examples.target(size))
        perfect = interface.answer(examples.target(size), think="It is brighter.", frame=pixels(size), size=size)
    except Exception:  # noqa: BLE001 an answer that fails is found by the round trips; here only its text is missed
        yield ""
    fixed = ["", " ", "\n", "no idea", "<think>", "</think>", "<answer>", "<answer></answer>", "<answer>{}</answer>"]
    fixed += ["{", "}", "[]", "null", "true", "42", '"', "{}", "[[[[", "]" * 500, "[" * 5000, '{"a":' * 5000]
    fixed += ["<think>" * 5000, "<answer>" * 5000, "</answer><answer>", "\x00", "\ud800", "\u202e{}", "🫁" * 100]
    fixed += ["1e999", "NaN", "9" * 5000, "```json\n{}\n```", "```json", '{"a": 1, "a": 2}', "a" * 300_000]
    yield from fixed
    yield perfect + perfect
    yield perfect.upper()
    yield perfect * 200
    yield from (perfect[: len(perfect) * cut // 16] for cut in range(16))
    for swap in ["NaN", "Infinity", "-1", "1e999", "true", "null", '"7"', "[]", "{}", "9" * 400, "-0.0", "1_000", "٣"]:
        yield _with_digits(perfect, swap)
    generator = np.random.default_rng(0)
    for _ in range(100 if perfect else 0):
        letters = list(perfect)
        for index in generator.integers(0, len(letters), size=4):
            letters[index] = str(generator.choice(list('{}[]<>/":,0-.eN \\\n')))
        yield "".join(letters)


def _with_digits(text: str, swap: str) -> str:
    head, _, tail = text.partition("[")
    number, comma, rest = tail.partition(",")
    return f"{head}[{swap}{comma}{rest}" if number else text


def _frames(size: Size) -> list[Frame | None]:
    frames: list[Frame | None] = [None, pixels(size)]
    kinds: tuple[Kind, ...] = get_args(Kind)
    orders: tuple[Order, ...] = get_args(Order)
    frames += [Frame(kind, MODEL_SIZE, order) for order in orders for kind in kinds]
    return frames


def _check_render(interface: PromptInterface, query: Query, findings: Findings) -> None:
    before = query.image.copy()
    messages = interface.render(query)
    shape = [turn.get("role") for turn in messages]
    findings.expect(shape == ["user"], "render gives one user turn, image first", f"the turns are {shape}")
    content = messages[0].get("content", [])
    if not findings.expect(
        isinstance(content, list) and content, "a turn's content is a list of parts", shown(content)
    ):
        return
    kinds = [part.get("type") for part in content]
    findings.expect(
        kinds[0] == "image" and kinds.count("image") == 1,
        "render gives one user turn, image first",
        f"the parts are {kinds}",
    )
    findings.expect(
        np.array_equal(image_of(messages), before), "render passes the image on as it is", shown(image_of(messages))
    )
    findings.expect(
        query.question in text_of(messages), "the question is in the text as it was asked", shown(text_of(messages))
    )
    again = interface.render(query)
    findings.expect(text_of(again) == text_of(messages), "render writes the same text every time")


def _check_parts(interface: Any, query: Query, findings: Findings) -> None:
    parts = interface.split(query)
    right = bool(parts) and all(part.question == query.question for part in parts)
    findings.expect(right, "split gives one query or more, each with the question", shown(parts))
    silent = [Completion(text="", frame=pixels(part.size), usage={"completion_tokens": 1}) for part in parts]
    whole = interface.join(query, silent)
    findings.expect(
        whole.usage.get("completion_tokens") == len(parts), "join adds up what the parts took", shown(whole.usage)
    )
    _check_grounding(interface.parse(whole, query.size), "silence about every part", False, findings)
    lost = [*silent[1:], replace(silent[0], fault=Fault.TIMEOUT, cause="late")]
    findings.expect(
        interface.join(query, lost).fault is Fault.TIMEOUT, "a part that never arrived is the answer's fault"
    )


def _check_round_trip(
    interface: PromptInterface, provides: frozenset[str], size: Size, frame: Frame | None, findings: Findings
) -> None:
    target = examples.target(size)
    (truth,) = target.regions
    interface = _knowing(interface, target)
    text = interface.answer(target) if frame is None else interface.answer(target, frame=frame, size=size)
    if not findings.expect(isinstance(text, str), "answer gives text", shown(text)):
        return
    grounding = interface.parse(Completion(text=text, frame=frame), size)
    where = f"a {size} image through {frame}"
    region = grounding.region if grounding.fault is None else None
    findings.expect(
        region is not None, "parse reads the ideal answer", f"{grounding.fault} for {where}: {text[:200]!r}"
    )
    if region is None:
        return
    unit = np.array((frame or pixels(size)).unit(size))
    if frame is not None and frame.kind == "unit":
        unit = unit / 1000  # a fraction needs at least three decimals
    pairs: dict[str, tuple[Any, Any]] = {
        "box": (region.box, truth.box),
        "points": (region.points, truth.points),
    }
    for kind in sorted(provides & set(pairs)):
        value, wanted = pairs[kind]
        if kind == "points" and hasattr(interface, "split"):  # every part may add points of its own
            value = (
                [min(value, key=lambda point: abs(point[0] - x) + abs(point[1] - y)) for x, y in wanted]
                if value
                else ()
            )
        drift = np.inf
        if value is not None and np.size(value) == np.size(wanted):
            step = np.abs(np.reshape(value, (-1, 2)) - np.reshape(wanted, (-1, 2))) / unit
            drift = float(step.max())
        findings.expect(
            drift <= 0.5 + 1e-6, f"{kind}: at most half a model unit of drift", f"by {drift:.3g} for {where}"
        )


def _check_numbers_of_regions(interface: PromptInterface, findings: Findings) -> set[int]:
    """Check the ideal answers about targets of no and of several regions; return how many it can say."""
    size, counts = (480, 640), {1}
    (truth,) = examples.target(size).regions
    boxes = [Box(40 + 150 * index, 60, 140 + 150 * index, 90 + 80 * index) for index in range(3)]
    for count in (0, 3):
        regions = [
            replace(
                truth, box=box, points=(Point(box.x1 + 30, box.y1 + 10), Point(box.x1 + 60, box.y1 + 20)), mask=None
            )
            for box in boxes[:count]
        ]
        promise = f"parse reads the ideal answer about {count} regions" if count else "nothing fits is an answer"
        with findings.attempt(promise):
            try:
                interface = _knowing(interface, Target(regions=tuple(regions)))
                text = interface.answer(Target(regions=tuple(regions)), frame=pixels(size), size=size)
            except ValueError:
                continue
            grounding = interface.parse(Completion(text=text, frame=pixels(size)), size)
            findings.expect(
                grounding.fault is None and len(grounding.regions) == count,
                promise,
                f"{grounding.fault}, {len(grounding.regions)} regions: {text[:200]!r}",
            )
            counts.add(count)
    return counts


def _check_think(interface: PromptInterface, findings: Findings) -> None:
    size, words = (37, 53), "The left lung is darker, so I look there."
    interface = _knowing(interface, examples.target(size))
    text = interface.answer(examples.target(size), think=words, frame=pixels(size), size=size)
    grounding = interface.parse(Completion(text=text, frame=pixels(size)), size)
    findings.expect(grounding.fault is None, "parse reads the ideal answer", f"{grounding.fault} where it has thoughts")
    if grounding.think is not None:
        findings.expect(
            grounding.think.strip() == words, "parse reads thoughts as they were written", shown(grounding.think)
        )


def _check_total(interface: PromptInterface, text: str, abstains: bool, findings: Findings) -> None:
    size = (37, 53)
    quoted = repr(text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)")
    completion = Completion(text=text, frame=pixels(size))
    interface = _knowing(interface, examples.target(size))
    with findings.attempt("parse never raises, whatever the text", quoted):
        for variant in (completion, replace(completion, frame=None), replace(completion, finish_reason="length")):
            _check_grounding(interface.parse(variant, size), quoted, abstains, findings)


def _check_grounding(grounding: Any, quoted: str, abstains: bool, findings: Findings) -> None:
    if not findings.expect(
        isinstance(grounding, Grounding), "parse gives a Grounding", f"{shown(grounding)} for {quoted}"
    ):
        return
    fault, regions = grounding.fault, grounding.regions
    findings.expect(fault is None or isinstance(fault, Fault), "a fault is a medground.types.Fault", shown(fault))
    findings.expect(fault is not None or regions or abstains, "without a fault there is a region", quoted)
    for region in regions:
        numbers = [*(region.box or ()), *(value for point in region.points for value in point)]
        findings.expect(np.isfinite(numbers).all(), "a region is finite", f"{numbers} for {quoted}")
        findings.expect(region.prompt() is not None, "a region has a box, points, or both", quoted)
    for what in ("answer_level", "think_level"):
        level = getattr(grounding, what)
        good = (level is None and what == "think_level") or (level is not None and 0 <= level <= 1)
        findings.expect(good, f"{what} lies in [0, 1]", f"{level!r} for {quoted}")
