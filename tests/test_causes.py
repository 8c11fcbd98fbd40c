"""Why a result says little: in sentences, by count, with what to change."""

import json

import numpy as np
import pytest

import medground
from medground.cli import main
from medground.data.open_dataset import open_dataset
from medground.errors import InputError
from medground.evaluation.causes import Outcomes
from medground.frames import Frame
from medground.images.rle import encode_rle, rle_area
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.rollouts import Group
from medground.recipe import resolve
from medground.rewards.rubric import Score
from medground.runs.folder import RunFolder, RunMetadata
from medground.runs.inputs import RunInputs
from medground.training.report import training_report
from medground.types import Completion, Fault, Mask, Query, Region, Rollout, Sample, Target

WHOLE = '<think>There.</think><answer>{"bbox": [10, 10, 60, 60], "points_1": [10, 10], "points_2": [20, 20]}</answer>'
CUT = WHOLE[:60]
"""Ends inside its answer block."""
BARE = {"prompt_interface": "bbox_points"}


def cli(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    from medground_toy import phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write(folder, phantoms.samples(8, seed=3, size=(96, 96)))
    return folder


def saved(folder, phantoms, *pairs):
    """A file of saved answers about the samples in their order, as (text, how it ended)."""
    path = folder / "answers.jsonl"
    lines = [
        {"id": name, "prediction": text, "finish_reason": end}
        for name, (text, end) in zip(open_dataset(phantoms).ids, pairs, strict=False)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def grounded(text, end):
    query = Query(image=np.zeros((96, 96, 3), np.uint8), question="Where?")
    completion = Completion(text=text, frame=Frame("pixel", (96, 96)), finish_reason=end)
    return Pipeline.from_recipe(resolve(BARE)).ground(query, completion)


@pytest.mark.parametrize(
    ("text", "end", "fault"),
    [
        (CUT, "length", Fault.CUT_OFF),
        (WHOLE[:10], "length", Fault.CUT_OFF),
        ("", "length", Fault.CUT_OFF),
        ("<answer>{</answer>", "length", Fault.CUT_OFF),
        (CUT, "stop", Fault.NO_ANSWER),
        ("I cannot help with that.", "stop", Fault.NO_ANSWER),
        (WHOLE, "length", None),
        (WHOLE + " So it lies", "length", None),
        (WHOLE + WHOLE, "length", Fault.TWO_ANSWERS),
        (WHOLE.replace("[10, 10, 60", "[80, 10, 60"), "length", Fault.INVERTED_BOX),
    ],
)
def test_an_answer_that_ended_at_the_limit_before_it_was_whole_is_cut_off(text, end, fault):
    result = grounded(text, end)
    assert result.fault is fault


def test_a_cut_answer_counts_against_the_model_and_keeps_what_was_read():
    assert Fault.CUT_OFF.of_model
    result = grounded(CUT, "length")
    assert (result.think, result.answer_level) == ("There.", 0.0)


@pytest.mark.slow
def test_cut_answers_and_refusals_are_counted_apart(phantoms, tmp_path):
    """Of eight: five cut off, one that refuses, two whole."""
    texts = [(CUT, "length")] * 5 + [("No.", "stop")] + [(WHOLE, "stop")] * 2
    recipe = {**BARE, "segmenter": "ellipse", "data": {"path": str(phantoms)}, "evaluate": {"n_boot": 50}}
    result = medground.evaluate(recipe, predictions=saved(tmp_path, phantoms, *texts), out=tmp_path / "out")
    condition = result.summary.conditions["answer"]
    assert condition.failures == {"cut_off": 5, "no_answer": 1}
    assert (
        condition.answers,
        condition.ok,
        condition.refusals,
        condition.masks,
        condition.empty_masks,
    ) == (8, 2, 1, 2, 0)
    (cause,) = result.summary.causes
    assert cause.startswith("5 of 8 answers are cut off by the length limit: raise sampling.max_completion_length")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 of 8 answers end without any answer block (refusals)." in page
    assert page.index(cause) < page.index("Intervals of 95%"), "before the numbers and how they were made"
    assert "cut off" in page and "empty masks" not in page
    again = medground.evaluate(recipe, predictions=tmp_path / "out")
    assert again.summary.conditions["answer"].failures == condition.failures, "saved answers stay cut"


def test_how_a_saved_answer_ended_is_one_of_two_words(phantoms, tmp_path):
    with pytest.raises(InputError, match="finish_reason must be"):
        medground.evaluate(
            {**BARE, "data": {"path": str(phantoms)}}, predictions=saved(tmp_path, phantoms, (WHOLE, "timeout"))
        )


@pytest.mark.slow
def test_the_first_lines_of_eval_say_why_everything_is_0(phantoms, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(json.dumps({**BARE, "evaluate": {"n_boot": 50}}))
    answers = saved(tmp_path, phantoms, *[(CUT, "length")] * 8)
    command = ["eval", tmp_path / "recipe.yaml", f"data.path={phantoms}", "--predictions", answers]
    assert cli(*command, "--out", tmp_path / "text") == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("8 of 8 answers are cut off by the length limit: raise sampling.max_completion_length")
    assert cli(*command, "--out", tmp_path / "json", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["causes"] == [first]
    assert result["conditions"]["answer"]["failures"] == {"cut_off": 8}


FAR = WHOLE.replace("[10, 10, 60, 60]", "[0, 0, 1, 1]").replace("[10, 10]", "[0, 0]").replace("[20, 20]", "[1, 1]")


def test_answers_that_hit_nothing_are_told_apart_from_answers_that_fail(phantoms, tmp_path):
    recipe = {**BARE, "data": {"path": str(phantoms)}, "evaluate": {"n_boot": 50}}
    result = medground.evaluate(recipe, predictions=saved(tmp_path, phantoms, *[(FAR, "stop")] * 8))
    assert result.mean("iou") == 0
    (cause,) = result.summary.causes
    assert cause.startswith("Every score of 8 answers is 0, though most can be read")
    sound = medground.evaluate(recipe, predictions=saved(tmp_path, phantoms, *[(WHOLE, "stop")] * 8))
    assert sound.mean("iou") > 0 and sound.summary.causes == []


SPECK = WHOLE.replace("[10, 10, 60, 60]", "[10.6, 10.6, 10.9, 10.9]")
"""A box between the centres of two pixels: filled, it holds none."""


@pytest.mark.slow
def test_empty_masks_are_counted_and_told(phantoms, tmp_path):
    recipe = {
        **BARE,
        "segmenter": "box_fill",
        "prompt": "box",
        "data": {"path": str(phantoms)},
        "evaluate": {"n_boot": 50},
    }
    answers = saved(tmp_path, phantoms, *[(SPECK, "stop")] * 6, *[("No.", "stop")] * 2)
    result = medground.evaluate(recipe, predictions=answers, out=tmp_path / "out")
    condition = result.summary.conditions["answer"]
    assert (condition.ok, condition.masks, condition.empty_masks) == (6, 6, 6)
    (cause,) = (sentence for sentence in result.summary.causes if "Every score" not in sentence)
    assert cause.startswith("6 of 6 masks are empty: look at the boxes")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count(cause) == 2, "first of all, and with the failures"
    assert "empty masks" in page and "cut off" not in page


@pytest.mark.slow
def test_run_counts_empty_masks_and_says_so_first(phantoms, tmp_path, capsys):
    reasoner = {"name": "scripted", "texts": [SPECK]}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**BARE, "reasoner": reasoner, "segmenter": "box_fill", "prompt": "box"}))
    command = ["run", phantoms / "images", "--question", "Where?", "--recipe", recipe]
    count = len(list((phantoms / "images").iterdir()))
    assert cli(*command, "--out", tmp_path / "text") == 0
    lines_of_stderr = capsys.readouterr().err.splitlines()
    assert lines_of_stderr[-2].startswith(f"{count} of {count} masks are empty")
    assert f"{count} of {count} grounded; {count} of {count} masks empty" in lines_of_stderr[-1]
    assert cli(*command, "--out", tmp_path / "json", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["masks"], result["empty_masks"]) == (count, count, count)
    assert result["causes"] == [lines_of_stderr[-2]]


@pytest.mark.slow
def test_a_models_answers_that_are_cut_are_cut_in_run_manifest_and_summary(phantoms, tmp_path, capsys):
    pytest.importorskip("transformers", reason="needs transformers")
    command = ["run", phantoms / "images", "--question", "Where?", "--recipe", "infer/toy_vlm"]
    assert cli(*command, "sampling.max_completion_length=5", "--out", tmp_path / "out") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert {(line["status"], line["fault"], line["finish_reason"]) for line in lines} == {
        ("fault", "cut_off", "length")
    }
    lines_of_stderr = capsys.readouterr().err.splitlines()
    assert lines_of_stderr[-2].startswith(
        f"{len(lines)} of {len(lines)} answers are cut off by the length limit of 5 tokens"
    )
    assert f"0 of {len(lines)} grounded, {len(lines)} cut_off" in lines_of_stderr[-1]


@pytest.mark.parametrize(
    ("outcomes", "says"),
    [
        (Outcomes(answers=100, faults={}), []),
        (Outcomes(answers=100, faults={"no_answer": 89}), []),
        (Outcomes(answers=100, faults={"no_answer": 90}), ["90 of 100 answers are without an answer block"]),
        (Outcomes(answers=100, faults={"cut_off": 9}), []),
        (Outcomes(answers=100, faults={"cut_off": 10}), ["10 of 100 answers are cut off"]),
        (
            Outcomes(answers=100, faults={"bad_json": 30, "cut_off": 60, "inverted_box": 9}),
            ["60 of 100 answers are cut off", "30 of 100 answers are of no use (bad_json)"],
        ),
        (Outcomes(answers=100, faults={}, masks=100, empty_masks=89), []),
        (Outcomes(answers=100, faults={}, masks=10, empty_masks=9), ["9 of 10 masks are empty"]),
        (Outcomes(answers=10, faults={"out_of_frame": 10}, zero=True), ["10 of 10 answers are out of the frame"]),
        (Outcomes(answers=1, faults={"transport": 1}), ["1 of 1 answers is lost on the way (transport)"]),
        (Outcomes(answers=0, faults={}, zero=True), []),
    ],
)
def test_only_what_befell_most_answers_is_a_cause(outcomes, says):
    result = outcomes.causes()
    assert len(result) == len(says)
    assert all(cause.startswith(start) for cause, start in zip(result, says, strict=True)), result


def test_few_cut_answers_and_empty_masks_are_told_beside_the_failures():
    result = Outcomes(answers=100, faults={"cut_off": 1}, masks=99, empty_masks=1, limit=2048)
    assert result.cut.startswith("1 of 100 answers is cut off by the length limit of 2,048 tokens: raise")
    assert result.empty.startswith("1 of 99 masks are empty")
    assert Outcomes(answers=100, faults={}).cut is Outcomes(answers=100, faults={}).empty is None


def test_every_fault_has_a_sentence():
    for fault in Fault:
        (sentence,) = Outcomes(answers=2, faults={fault: 2}).causes()
        assert sentence.startswith("2 of 2 answers are ") and "{" not in sentence


@pytest.mark.parametrize(
    ("mask", "area"), [(np.zeros((5, 7), bool), 0), (np.ones((5, 7), bool), 35), (np.eye(6) > 0, 6)]
)
def test_the_area_of_run_lengths_is_that_of_the_mask(mask, area):
    assert rle_area(encode_rle(mask)) == area


def trained(folder, *steps, validation=None):
    """The report of a run with these metrics of its steps, and of its last validation."""
    run = RunFolder(folder, resolve("infer/toy"))
    run.begin(RunMetadata(recipe="mine", planned_steps=len(steps), seed=0), RunInputs())
    for number, metrics in enumerate(steps, start=1):
        run.step(number, {"loss": 0.1, **metrics}, seconds=0.5, skipped=None, warnings=[])
    if validation:
        run.event("validate", step=len(steps), **validation)
    run.close()
    return training_report(run.folder)


def test_a_training_page_begins_with_why_it_teaches_nothing(tmp_path):
    """Two steps of eight completions: seven and eight of them cut off."""
    steps = [{"reward": 0.0, "reward_std": 0.0, "completions/count": 8.0, "faults/cut_off": cut} for cut in (7.0, 8.0)]
    page = trained(tmp_path / "cut", *steps)
    says = "15 of 16 completions are cut off by the length limit: raise grpo.max_completion_length"
    assert page.count(says) == 2 and page.index(says) < page.index("2 of 2 steps done")
    zero = [{"reward": 0.0, "reward_std": 0.0, "completions/count": 8.0}] * 2
    assert "Every score of 16 completions is 0" in trained(tmp_path / "zero", *zero)
    fine = trained(tmp_path / "fine", *zero, {"reward": 0.25, "reward_std": 0.5, "completions/count": 8.0})
    assert "Every score" not in fine and 'class="first"' not in fine


def test_a_training_page_counts_empty_masks(tmp_path):
    steps = [
        {"reward": 0.5, "completions/count": 4.0, "masks/count": 4.0, "masks/empty": empty} for empty in (1.0, 2.0)
    ]
    page = trained(tmp_path / "some", *steps)
    assert page.count("3 of 8 masks are empty") == 1


def test_a_validation_that_is_all_0_has_its_cause_on_the_page(tmp_path):
    cut = {"eval/iou": 0.0, "eval/answers/n": 4.0, "eval/faults/cut_off": 4.0}
    says = (
        "At the last validation: 4 of 4 answers are cut off by the length limit: raise sampling.max_completion_length"
    )
    assert says in trained(tmp_path / "cut", {}, validation=cut)
    assert "At the last validation" not in trained(
        tmp_path / "fine", {}, validation={"eval/iou": 0.5, "eval/answers/n": 4.0}
    )


def group(*masks):
    """A group of rollouts with these masks, none of them scored."""
    query = Query(image=np.zeros((4, 6, 3), np.uint8), question="Where?", id="a")
    sample = Sample(query=query, target=Target(regions=(Region(box=medground.Box(0, 0, 2, 2)),)))
    completion, grounding = Completion(text=WHOLE, frame=None), grounded(WHOLE, "stop")
    rollouts = [Rollout(sample=sample, completion=completion, grounding=grounding.with_masks([mask])) for mask in masks]
    return Group(sample=sample, rollouts=rollouts, scores=[Score(total=0.0, terms={}) for _ in masks])


EMPTY, CROSS = (Mask(data=data, score=0.5) for data in (np.zeros((4, 6), bool), np.eye(4, 6) > 0))


def test_only_whether_a_mask_is_empty_goes_to_other_ranks():
    rollouts = pytest.importorskip("medground.training.grpo.rollouts", reason="needs torch")
    result = rollouts._without_pixels(group(None, EMPTY, CROSS)).rollouts
    assert result[0].mask is None
    assert [each.mask.data.tolist() for each in result[1:]] == [[[False]], [[True]]]


def test_a_training_step_counts_its_masks_where_it_makes_any():
    torch = pytest.importorskip("torch", reason="needs torch")
    from medground.training.grpo.batch import Batch
    from medground.training.grpo.metrics import batch_metrics

    def metrics(*groups):
        shape = len(groups), len(groups[0].rollouts)
        batch = Batch(
            groups=list(groups), images=[0] * shape[0], questions=[0] * shape[0], messages=[None] * shape[0],
            dummy_prompt=[], usable=[True] * shape[0], rewards=torch.zeros(shape), advantages=torch.zeros(shape),
            contributions={}, drawn=shape[0], constant=torch.ones(shape[0], dtype=torch.bool), unresampled=0,
        )  # fmt: skip
        return batch_metrics(batch, [])

    result = metrics(group(None, EMPTY, CROSS), group(EMPTY, EMPTY, CROSS))
    assert (result["completions/count"], result["masks/count"], result["masks/empty"]) == (6, 5, 3)
    assert not any(name.startswith("masks/") for name in metrics(group(None, None, None)))
