"""A proposer that reads text is prompted with the question, and the instances of its mask are the candidates."""

import numpy as np
import pytest
from medground_toy import phantoms

import medground
from medground.cli import main
from medground.pipeline.cache import StageCache
from medground.pipeline.describe import describe
from medground.pipeline.pipeline import Pipeline
from medground.recipe import Recipe, find_problems, resolve
from medground.types import Fault, Mask, Query, SpatialPrompt

FIRST = '<think>a</think><answer>{"choice": 1}</answer>'


def recipe(**changes: object) -> Recipe:
    base = {
        "reasoner": {"name": "scripted", "texts": [FIRST]},
        "prompt_interface": {"name": "choose", "least": 0},
        "proposer": "tones",
    }
    return resolve({**base, **changes})


def spots(question: str) -> Query:
    """Two bright spots, the upper one on the right, and a dark one below them."""
    image = np.full((48, 48, 3), 90, np.uint8)
    image[8:20, 30:42], image[16:28, 6:18], image[34:44, 28:42] = 220, 210, 20
    return Query(image=image, question=question, id="spots")


UPPER, LEFT, DARK = (14, 36), (22, 12), (39, 35)
"""Row and column of a pixel of each."""


def test_the_instances_of_what_the_question_names_are_the_candidates():
    result = Pipeline.from_recipe(recipe())(spots("Which bright thing is it?"))
    upper, left = (candidate.mask.data for candidate in result.query.candidates)
    assert upper[UPPER] and left[LEFT] and not upper[LEFT] and not (upper | left)[DARK]
    assert result.fault is None and np.array_equal(result.mask.data, upper)
    dark = Pipeline.from_recipe(recipe())(spots("Which dark thing is it?"))
    assert len(dark.query.candidates) == 1 and dark.mask.data[DARK]


def test_no_more_than_k_and_the_surest_are_kept():
    one = Pipeline.from_recipe(recipe(proposals={"k": 1}))(spots("Which bright thing is it?"))
    assert len(one.query.candidates) == 1


def test_what_a_text_names_and_is_not_there_is_no_candidate():
    result = Pipeline.from_recipe(recipe())(spots("What is it?"))
    assert result.query.candidates == ()
    assert result.fault is Fault.BAD_CHOICE, "the reasoner names one all the same"


def test_a_mask_without_instances_is_a_candidate_itself():
    drawn = Mask(data=np.pad(np.ones((10, 10), bool), 19))
    prompts: list[SpatialPrompt] = []

    class Whole:
        accepts = frozenset({"text"})

        def segment(self, image, given):
            prompts.extend(given)
            return [drawn]

    parts = Pipeline.from_recipe(recipe())
    answers = Pipeline(parts.reasoner, parts.prompt_interface, proposer=Whole())
    assert [candidate.mask for candidate in answers(spots("Where?")).query.candidates] == [drawn]
    assert prompts == [SpatialPrompt(text="Where?")]


def test_candidates_are_kept_by_question(tmp_path):
    for question, misses in (("Which is bright?", 1), ("Which is bright?", 0), ("Which is dark?", 1)):
        cache = StageCache(tmp_path)
        result = Pipeline.from_recipe(recipe(), cache=cache)(spots(question))
        assert cache.misses["proposals"] == misses
        assert result.mask.data[UPPER] == ("bright" in question)


def test_questions_of_one_batch_have_their_own_candidates():
    batch = [spots("Which is bright?"), spots("Which is dark?")]
    bright, dark = Pipeline.from_recipe(recipe()).batch(batch)
    assert bright.mask.data[UPPER] and dark.mask.data[DARK]


def test_recipes_are_checked_and_described():
    assert find_problems(recipe()) == []
    assert "image, question -> at most 8 masks" in describe(recipe())
    [problem] = find_problems(recipe(proposer="grid", segmenter="tones"))
    assert "was not trained for points" in problem.message
    assert problem.hint.startswith("set proposer: tones and segmenter: null")
    with pytest.raises(
        medground.MedgroundError, match="was not trained for points, which it would be given, and reads no"
    ):
        medground.load(recipe(proposer="box_fill"))


@pytest.mark.slow
def test_the_command_prints_the_ceiling_beside_the_choice(tmp_path, capsys):
    phantoms.write(tmp_path / "data", phantoms.samples(4, 31, families=["maybe"], size=(64, 64)))
    (tmp_path / "own.yaml").write_text(
        f"extends: infer/toy\nreasoner: {{name: scripted, texts: ['{FIRST}']}}\n"
        "prompt_interface: choose\nproposer: tones\nsegmenter: null\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(tmp_path / "own.yaml"), f"data.path={tmp_path / 'data'}", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().err
    assert ended.value.code == 0
    assert all(name in printed for name in ("candidate_dice", "candidate_recall", "selection_accuracy"))
