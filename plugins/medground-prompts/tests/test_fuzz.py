"""No text crashes a parser, and every grounding is consistent."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed_completions import ALPHABET, ATTACKS, completions
from medground_prompts import Bbox, BboxPoints, Points
from medground_prompts.parsers import PARSERS

from medground.frames import Frame, pixels
from medground.types import Completion, Fault, Grounding, Region, Target

SIZE = (840, 840)
FRAMES = [pixels(SIZE), None, Frame("permille", SIZE, "yx"), Frame("unit", SIZE)]
INTERFACES = [BboxPoints(parser=name) for name in PARSERS]
INTERFACES += [kind(parser=name) for kind in (Bbox, Points) for name in ("lenient", "strict")]
LENIENT, STRICT, TRAIN = (BboxPoints(parser=name) for name in ("lenient", "strict", "released_train"))
READABLE = {Fault.MISSING_KEYS, Fault.BAD_BOX, Fault.INVERTED_BOX, Fault.DEGENERATE_BOX, Fault.BAD_POINTS}
READABLE |= {Fault.POINTS_EQUAL, Fault.OUT_OF_FRAME, Fault.NONFINITE}
UNREADABLE = {Fault.NO_ANSWER, Fault.TWO_ANSWERS, Fault.BAD_JSON, Fault.TOO_LONG}


def check(interface, text: str, frame: Frame | None) -> Grounding:
    found = interface.parse(Completion(text=text, frame=frame), SIZE)
    held = found.region.prompt().kinds if found.region else frozenset()
    assert (found.fault is None) == (held == interface.provides)
    assert held <= interface.provides
    assert found.fault in READABLE | {None} if found.raw is not None else found.fault in UNREADABLE
    assert 0 <= found.answer_level <= 1 and 0 <= found.think_level <= 1
    assert found.think is None or found.think in text
    if found.region is None:
        return found
    numbers = [*(found.region.box or ()), *itertools.chain(*found.region.points)]
    assert all(type(number) is float and math.isfinite(number) for number in numbers)
    if found.region.box is not None and not interface.released:
        assert found.region.box.valid
        assert frame is None or found.region.box == found.region.box.clip(SIZE)
    return found


def check_all(text: str, frame: Frame | None) -> None:
    for interface in INTERFACES:
        check(interface, text, frame)


def check_agreement(text: str) -> None:
    """Assert that an answer without fault reads back equally after rewriting, by the released parser too."""
    found = check(LENIENT, text, None)
    if found.fault is not None:
        return
    target = Target(regions=(Region(box=found.region.box, points=found.region.points),))
    anew = STRICT.parse(Completion(text=f"<think>a</think><answer>{LENIENT.schema.write(found.raw, 'json')}</answer>",
                                   frame=None), SIZE)  # fmt: skip
    assert anew.region == found.region
    assert STRICT.parse(Completion(text=STRICT.answer(target), frame=None), SIZE).fault is None
    released = TRAIN.parse(Completion(text=text, frame=None), SIZE)
    thought = (
        text.find("<think>") <= text.find("<answer>") < text.find("</think>")
    )  # released reads answers in thoughts
    if released.fault is None and not thought:
        assert released.region == found.region


@pytest.mark.slow
def test_five_thousand_fuzzed_texts_give_consistent_groundings():
    faults = set()
    for number, text in enumerate(itertools.islice(completions(seed=0), 5_000)):
        check_all(text, FRAMES[number % 4])
        check_agreement(text)
        faults.add(LENIENT.parse(Completion(text=text, frame=FRAMES[0]), SIZE).fault)
    assert faults == {None} | READABLE | UNREADABLE - {Fault.TOO_LONG}  # the generator reaches every corner


@pytest.mark.soak
def test_a_hundred_thousand_fuzzed_texts_give_consistent_groundings():
    for number, text in enumerate(itertools.islice(completions(seed=1), 100_000)):
        check_all(text, FRAMES[number % 4])
        check_agreement(text)


@given(st.text() | st.lists(st.sampled_from(ALPHABET)).map("".join), st.sampled_from(FRAMES))
def test_any_text_gives_a_consistent_grounding(text, frame):
    check_all(text, frame)
    check_agreement(text)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("length", [1, 100, 60_000, 80_000])
def test_attacks_end_in_a_fault(attack, length):
    for interface in INTERFACES:
        check(interface, ATTACKS[attack](length), FRAMES[0])


def test_the_same_text_gives_the_same_answer():
    for text in itertools.islice(completions(seed=2), 200):
        completion = Completion(text=text, frame=pixels(SIZE))
        assert repr(LENIENT.parse(completion, SIZE)) == repr(BboxPoints().parse(completion, SIZE))
