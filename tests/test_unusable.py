"""One sample that cannot be used costs itself: a line with its status, or a refusal before a run's first step."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import medground
from medground.errors import InputError, RecipeError, RunError
from medground.evaluation.evaluate import evaluate
from medground.geometry import Box, Point
from medground.training.run import train
from medground.types import Fault, Query, Region, Sample, Target

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

CONTROL = "Where <|image_pad|> is <|im_end|> it?"


def sample(name, question="Where is it?", size=(64, 64), **truth):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    region = Region(**{"box": Box(1, 1, 9, 9), "points": (Point(2, 2), Point(6, 6)), **truth})
    return Sample(query=Query(image=image, question=question, id=name), target=Target(regions=(region,)))


@pytest.mark.slow
def test_a_run_answers_what_it_can_and_gives_the_rest_a_line(tmp_path):
    from medground.cli.run import run

    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in {"a": (64, 64), "strip": (300, 1), "thin": (500, 3), "z": (64, 48)}.items():
        Image.new("RGB", size, (9, 99, 9)).save(folder / f"{name}.png")
    words = [str(folder), "--out", str(tmp_path / "out"), "--recipe", "infer/toy_vlm", "--question", CONTROL]
    done = CliRunner().invoke(run, words)
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    status = {line["id"]: line["status"] for line in lines}
    assert status.pop("strip") == "unreadable"
    assert len(status) == 3 and set(status.values()) <= {"ok", "fault"}
    assert isinstance(done.exception, InputError)
    assert "1 of 4 inputs could not be read, the first: an image of 1x300 has no usable aspect ratio" in str(
        done.exception
    )


def test_a_question_alone_about_an_unusable_image_is_refused(tmp_path):
    from medground.cli.ground import ground

    Image.new("RGB", (300, 1)).save(tmp_path / "strip.png")
    words = [str(tmp_path / "strip.png"), "Where?", "--recipe", "infer/toy_vlm", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(ground, words)
    assert isinstance(done.exception, InputError)
    assert "aspect ratio" in str(done.exception)


@pytest.mark.slow
def test_an_evaluation_leaves_an_unusable_sample_out_of_its_means_and_counts_it():
    samples = [sample("a"), sample("strip", size=(1, 300)), sample("b", CONTROL)]
    result = evaluate(medground.load("infer/toy_vlm"), data=samples, conditions=["answer"])
    faults = {record.id: record.answers[0].fault for record in result.records}
    assert faults["strip"] is Fault.UNUSABLE_INPUT
    assert Fault.UNUSABLE_INPUT not in (faults["a"], faults["b"])
    assert result.summary.conditions["answer"].excluded == {Fault.UNUSABLE_INPUT: 1}


@pytest.mark.parametrize("conditions", [["answer"], ["answer", "oracle_box", "swapped"]])
def test_an_evaluation_goes_on_where_an_image_cannot_be_read(tmp_path, caplog, conditions):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for name in "abc":
        Image.new("RGB", (64, 48), (9, 99, 9)).save(folder / "images" / f"{name}.png")
        lines.append({"id": name, "image": f"images/{name}.png", "question": "Where?", "bbox_2d": [1, 1, 9, 9]})
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "images" / "b.png").write_bytes((folder / "images" / "b.png").read_bytes()[:60])
    result = evaluate(medground.load("infer/toy"), data=str(folder), conditions=conditions, out=tmp_path / "out")
    assert [(record.id, record.answers[0].fault is Fault.UNUSABLE_INPUT) for record in result.records] == [
        ("a", False),
        ("b", True),
        ("c", False),
    ] * len(conditions)
    for name in conditions:
        assert result.summary.conditions[name].excluded == {Fault.UNUSABLE_INPUT: 1}
        assert result.summary.conditions[name].metrics["iou"].n == 2
    assert "sample 'b' cannot be read: " in caplog.text
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_samples_that_cannot_be_trained_on_are_named_before_the_first_step(trials, tmp_path, kind):
    recipe = trials(kind, max_steps=9)
    del recipe["data"]
    samples = [sample(f"s{index}") for index in range(4)] + [
        sample("strip", size=(1, 300)),
        sample("line", size=(500, 1)),
    ]
    with pytest.raises(InputError, match="2 of 6 samples cannot be used: sample 'strip': an image of 1x300") as error:
        train(recipe, out=tmp_path / "run", data=samples)
    assert "'line': an image of 500x1" in str(error.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_prompt_that_is_too_long_is_named_before_the_first_step(trials, tmp_path):
    recipe = trials(max_prompt_length=60, max_steps=9)
    del recipe["data"]
    samples = [sample(f"s{index}") for index in range(5)] + [sample("long", "Where is the shadow? " * 9)]
    with pytest.raises(RecipeError, match="the prompt of sample 'long' takes"):
        train(recipe, out=tmp_path / "run", data=samples)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.slow
def test_names_of_control_tokens_in_questions_and_traces_train_like_other_text(trials, tmp_path):
    for kind in ("grpo", "sft"):
        recipe = trials(kind, max_steps=1)
        del recipe["data"]
        samples = [sample("a", CONTROL), sample("b")]
        samples[1].labels["think"] = "dark <|vision_start|> here"
        assert train(recipe, out=tmp_path / kind, data=samples).skipped == 0


def test_a_run_says_which_terms_abstained_and_why(trials, tmp_path):
    recipe = trials(rewards={"mask_dice": 1, "letters": 0}, max_steps=9)
    recipe["segmenter"] = "box_fill"
    del recipe["data"]
    with pytest.raises(RunError, match=r"3 steps in a row had to be skipped.*no group could be scored") as error:
        train(recipe, out=tmp_path / "run", data=[sample(f"s{index}") for index in range(4)])
    assert "term 'mask_dice' abstained (the target has no mask), 6 times" in str(error.value)
