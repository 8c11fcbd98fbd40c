"""The prompt: our wording, and templates from files."""

from pathlib import Path

import numpy as np
import pytest
from medground_prompts import Bbox, BboxPoints, Points

from medground.errors import InputError, RecipeError
from medground.types import Query, text_of

QUERY = Query(image=np.zeros((4, 6, 3), np.uint8), question="What {Answer} explains the <image> shadow?")


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize(
    ("factory", "asked", "unasked"),
    [
        (BboxPoints, ['"bbox": [xmin, ymin, xmax, ymax]', '"points_1": [x1, y1]', '"points_2": [x2, y2]'], []),
        (Bbox, ['"bbox": [xmin, ymin, xmax, ymax]'], ["points"]),
        (Points, ['"points_1": [x1, y1]', '"points_2": [x2, y2]'], ["bbox", "box"]),
    ],
)
def test_the_prompt_asks_for_what_the_parser_reads(factory, asked, unasked, think):
    interface = factory(think=think, style="single_quoted")
    text = text_of(interface.render(QUERY))
    assert f"\nQuestion: {QUERY.question}\n" in text
    assert all(part in text for part in asked)
    assert not any(part in text for part in unasked)
    assert text.splitlines()[-1].endswith(f"<answer>{interface.schema.form('single_quoted')}</answer>")
    assert ("<think>" in text) == think
    assert "{Question}" not in text and text.count("{Answer}") == 1  # the question's own


def test_the_answer_format_is_the_published_one():
    assert text_of(BboxPoints(style="single_quoted").render(QUERY)).splitlines()[-1] == (
        "<think> thinking process here </think>"
        "<answer>{'bbox': [xmin, ymin, xmax, ymax], 'points_1': [x1, y1], 'points_2': [x2, y2]}</answer>"
    )
    assert (
        text_of(Bbox(think=False).render(QUERY)).splitlines()[-1]
        == '<answer>{"bbox": [xmin, ymin, xmax, ymax]}</answer>'
    )


def test_the_reasoning_prompt_names_the_nine_modalities_in_order():
    text = BboxPoints().text
    modalities = ["X-ray", "CT", "MRI", "ultrasound", "endoscopy", "fundus", "pathology", "dermoscopy", "mammography"]
    places = [text.index(name) for name in modalities]
    assert places == sorted(places)


def test_the_image_comes_first_and_the_text_starts_where_the_placeholder_line_ends(tmp_path: Path):
    path = tmp_path / "template.txt"
    path.write_text("<image>\nLook.\nQuestion: {Question} -> {Answer} {Other} {{}}", encoding="utf-8")
    [turn] = Bbox(template=path).render(QUERY)
    assert [part["type"] for part in turn["content"]] == ["image", "text"]
    assert turn["content"][0]["image"] is QUERY.image
    form = '{"bbox": [xmin, ymin, xmax, ymax]}'
    assert turn["content"][1]["text"] == f"\nLook.\nQuestion: {QUERY.question} -> {form} {{Other}} {{{{}}}}"


def test_without_instructions_the_text_is_the_question():
    plain = Bbox(instructions=False)
    assert text_of(plain.render(QUERY)) == f"\n{QUERY.question}"


def test_text_before_the_image_placeholder_is_kept(tmp_path: Path):
    path = tmp_path / "template.txt"
    path.write_text("Hello. <image>\n{Question}", encoding="utf-8")
    assert text_of(Bbox(template=path).render(QUERY)) == f"Hello. \n{QUERY.question}"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no placeholder", "has no {Question}"), (b"<image><image>{Question}", "more than"), (b"\xff", "read")],
)
def test_templates_that_cannot_work_are_refused(tmp_path: Path, content, words):
    path = tmp_path / "template.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        Bbox(template=path)
    with pytest.raises(InputError, match="cannot be read"):
        Bbox(template=tmp_path / "missing.txt")


def test_wrong_arguments_are_refused_with_a_remedy():
    with pytest.raises(RecipeError, match="did you mean 'lenient'"):
        Bbox(parser="leniant")
    with pytest.raises(RecipeError, match="single_quoted"):
        Bbox(style="single")
    with pytest.raises(RecipeError, match="bbox_points"):
        Points(parser="released_train")


def test_the_repr_shows_the_arguments():
    assert repr(Bbox(think=False)) == (
        "Bbox(think=False, style='json', template=None, instructions=True, parser='lenient', dialect=None)"
    )
