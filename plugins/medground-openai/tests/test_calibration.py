"""The frame of a server is measured, or refused where the measurement is unclear."""

import logging

import pytest
from openai_servers import blind, choice, conversation, reply, seeing

from medground.errors import MedgroundError, RunError
from medground.frames import Frame
from medground.types import Sampling


@pytest.mark.parametrize("order", ["xy", "yx"])
@pytest.mark.parametrize("kind", ["pixel", "permille", "unit"])
@pytest.mark.parametrize("side", [336, 1008, 1344])
def test_the_frame_of_a_server_is_measured(serve, make, kind, order, side, caplog):
    stub = serve(seeing(lambda size: Frame(kind, size, order), noise=0.004))
    reasoner = make(stub, frame=None, max_image_side=side, side_multiple=28)
    with caplog.at_level(logging.WARNING):
        assert reasoner.frame((300, 400)) == Frame(kind, reasoner.seen((300, 400)), order)
    assert f"reasoner.frame={kind} reasoner.order={order}" in caplog.text
    reasoner.frame((50, 70))
    assert len(stub.received) == 8, "asked once"


@pytest.mark.parametrize("wrap", ["<think>perhaps [1, 2, 3, 4]?</think>{}", "```json\n{}\n```", "[0, 0] or so {} [5]"])
def test_answers_inside_other_text_are_read(serve, make, wrap):
    stub = serve(seeing(lambda size: Frame("permille", size), wrap=wrap.replace("{}", "%s").replace("%s", "{}")))
    assert make(stub, frame=None).frame((80, 80)).kind == "permille"


def shrinking(size):
    scale = min(1.0, 512 / max(size))
    return Frame("pixel", (round(size[0] * scale), round(size[1] * scale)))


def test_the_size_that_a_server_resizes_to_is_measured(serve, make):
    reasoner = make(serve(seeing(shrinking)), frame=None, max_image_side=1008, side_multiple=28)
    with pytest.raises(RunError, match="1008x756 seem to be 512x384") as caught:
        reasoner.generate([conversation()], Sampling())
    assert "max_image_side" in caught.value.hint
    assert make(serve(seeing(shrinking)), frame=None, max_image_side=504).frame((80, 80)).kind == "pixel"


def test_a_server_that_resizes_to_a_fixed_square_is_measured(serve, make):
    reasoner = make(serve(seeing(lambda size: Frame("pixel", (448, 448)))), frame=None)
    with pytest.raises(RunError, match="seem to be 448x448"):
        reasoner.frame((80, 80))


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (blind, "elsewhere"),
        (lambda h, r: reply(h, {"choices": [choice("I see a rectangle.")]}), "too few"),
        (lambda h, r: reply(h, {"choices": [choice('{"bbox": [0, 0, 1000, 1000]}')]}), "elsewhere"),
        (lambda h, r: reply(h, {"choices": [choice('{"bbox": [-5, -5, -1, -1]}')]}), "elsewhere"),
        (lambda h, r: reply(h, {"choices": [choice("[" * 9000 + "1, " * 9000)]}), "too few"),
        (lambda h, r: reply(h, b"", 401), "does not accept the key"),
        (seeing(lambda size: Frame("permille", size), noise=0.15), "elsewhere"),
    ],
    ids=["blind", "talks", "the whole image", "negative", "brackets", "401", "shaky"],
)
def test_an_unclear_frame_is_refused(serve, make, behave, words):
    stub = serve(behave)
    with pytest.raises(MedgroundError, match="is not clear") as caught:
        make(stub, frame=None).generate([conversation()], Sampling())
    assert words in caught.value.message and "reasoner.frame" in caught.value.hint
    assert len(stub.received) == 8, "the patient's image was not sent"
