"""Questions written by a reasoner: good ones are accepted, bad ones rejected, no request is repeated."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from medground_data.build import Options, build
from medground_data.command import data
from medground_data.llm_questions import FromReasoner, numbered
from medground_data.question_checks import judge
from medground_data.question_sources import by_image
from medground_data.readers import read_source
from medground_toy import phantoms

from medground.data.open_dataset import open_dataset
from medground.data.region_props import region_props
from medground.errors import Interrupted, RunError
from medground.types import Completion, Fault, image_of, text_of

GOOD = {"question": "What here would change how the patient is treated?", "think": "It differs from what surrounds it."}


class Writer:
    """A reasoner that answers each stage; the test sets the answers of the second one."""

    def __init__(self, says=lambda category, attempt: GOOD, knows=True):
        self.says, self.knows = says, knows
        self.asked, self.numbers = [], {}

    def generate(self, batch, sampling):
        return [[self.answer(messages, sampling.seed)] for messages in batch]

    def answer(self, messages, seed):
        text, image = text_of(messages), image_of(messages)
        if text.startswith("The boxes"):
            stage, reply = "check", str(self.numbers.get(image.tobytes(), 0) if self.knows else 0)
        elif "JSON only" in text:
            stage, reply = "question", self.says(re.search(r"It is about <(.*)>", text)[1], seed)
        else:
            stage, reply = "description", f"It is about <{re.search(r'in yellow: (.*?). Describe', text)[1]}>"
        self.asked.append(stage)
        if isinstance(reply, Fault):
            return Completion(text="", frame=None, fault=reply)
        text = f"Sure! {json.dumps(reply)}" if isinstance(reply, dict) else reply
        return Completion(text=text, frame=None)


class Knowing(FromReasoner):
    """A question source that gives its writer the right numbers beforehand."""

    def _write(self, batch, others, folder, attempt):
        for row in batch:
            image, number = numbered(row, others, folder)
            self.reasoner.numbers[image.tobytes()] = number
        return super()._write(batch, others, folder, attempt)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    phantoms.write(folder, phantoms.samples(10, seed=3, size=(96, 96), families=("ct", "xray")))
    return folder


def asking(writer, **words):
    given = {"who": "w", "confirm": lambda cost: None, **words}
    return Knowing(reasoner=writer, **given)


def lines(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_good_questions_are_taken_with_their_reasoning(source, tmp_path):
    writer = Writer()
    build(read_source(source), tmp_path / "out", Options(), asking(writer))
    rows = lines(tmp_path / "out")
    assert {row["question"] for row in rows} == {GOOD["question"]}
    assert {row["think"] for row in rows} == {GOOD["think"]}
    assert {row["asked_by"] for row in rows} == {"reasoner"}
    assert sorted(set(writer.asked)) == ["check", "description", "question"]
    assert len(writer.asked) == 30
    assert len(open_dataset(tmp_path / "out")) == 10


def test_the_cost_is_shown_first_and_can_be_refused(source, tmp_path):
    writer, costs = Writer(), []

    def refuse(cost):
        costs.append(cost)
        raise RunError("no")

    with pytest.raises(RunError, match="no"):
        build(read_source(source), tmp_path / "out", Options(), asking(writer, confirm=refuse))
    assert writer.asked == []
    assert (costs[0].requests, costs[0].images) == (30, 30)
    assert costs[0].tokens_in > 1000
    assert "30 requests" in str(costs[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_bad_question_is_written_again_and_then_falls_back(source, tmp_path):
    bad = {
        "question": "Where is the liver, spleen, kidney, lung, heart, clavicle, tumour or opacity?",
        "think": "There.",
    }
    again = Writer(lambda category, seed: bad if seed == 0 else GOOD)
    build(read_source(source), tmp_path / "again", Options(), asking(again))
    assert {row["asked_by"] for row in lines(tmp_path / "again")} == {"reasoner"}
    never = Writer(lambda category, seed: bad)
    build(read_source(source), tmp_path / "template", Options(), asking(never))
    rows = lines(tmp_path / "template")
    assert {row["asked_by"] for row in rows} == {"template"}
    assert all(row["writing_failed"].startswith("leak") for row in rows)
    half = Writer(lambda category, seed: bad if category == "kidney" else GOOD)
    build(read_source(source), tmp_path / "half", Options(), asking(half, fallback="reject"))
    left_out = [json.loads(line) for line in (tmp_path / "half" / "rejected.jsonl").read_text().splitlines()]
    assert left_out
    assert all("no good question was written: leak" in row["reason"] for row in left_out)
    assert "kidney" not in {row["category"] for row in lines(tmp_path / "half")}


@pytest.mark.slow
def test_a_question_that_cannot_be_answered_is_rejected(source, tmp_path):
    build(read_source(source), tmp_path / "out", Options(), asking(Writer(knows=False)))
    assert {row["writing_failed"] for row in lines(tmp_path / "out")} == {"unanswerable, then unanswerable"}
    build(read_source(source), tmp_path / "unchecked", Options(), asking(Writer(knows=False), check=False))
    assert {row["asked_by"] for row in lines(tmp_path / "unchecked")} == {"reasoner"}


@pytest.mark.slow
def test_an_interrupted_build_requests_only_missing_questions(source, tmp_path):
    first, second = Writer(), Writer()
    with pytest.raises(Interrupted):
        build(read_source(source), tmp_path / "out", Options(), asking(first, stopped=lambda: len(first.asked) >= 16))
    stored = tmp_path / "out.building" / "written.jsonl"
    with stored.open("a") as file:
        file.write('{"key": "torn')
    build(read_source(source), tmp_path / "out", Options(), asking(second))
    assert len(first.asked) == 16
    assert len(second.asked) == 14
    whole = tmp_path / "whole"
    build(read_source(source), whole, Options(), asking(Writer()))
    assert lines(whole) == lines(tmp_path / "out")


def test_a_transport_failure_stops_the_build_and_keeps_the_answers(source, tmp_path):
    lost = Writer(lambda category, seed: Fault.TIMEOUT if category == "kidney" else GOOD)
    with pytest.raises(RunError, match="not answered: timeout"):
        build(read_source(source), tmp_path / "out", Options(), asking(lost))
    then = Writer()
    build(read_source(source), tmp_path / "out", Options(), asking(then))
    assert len(then.asked) < 30


def test_answers_of_another_reasoner_are_not_reused(source, tmp_path):
    first = Writer(knows=False)
    with pytest.raises(Interrupted):
        build(read_source(source), tmp_path / "out", Options(), asking(first, stopped=lambda: len(first.asked) >= 16))
    other = Writer()
    build(read_source(source), tmp_path / "out", Options(), asking(other, who="another"))
    assert len(other.asked) == 30


@pytest.fixture(scope="module")
def on_the_left():
    mask = np.zeros((80, 100), bool)
    mask[10:30, 5:40] = True
    image = np.full((80, 100, 3), 60, np.uint8)
    image[mask] = 200
    return region_props(image, mask)


BAD = [
    ("leak", "Which dark kidney needs a biopsy today?", "Fine."),
    ("leak", "What renal finding explains the blood?", "Fine."),
    ("leak", "Are the kidneys of equal size here?", "Fine."),
    ("contradicts_box", "Which bright structure lies on the right?", "Fine."),
    ("contradicts_box", "What is seen in the lower part of the picture?", "Fine."),
    ("contradicts_looks", "Which dark structure makes urine here?", "Fine."),
    ("contradicts_looks", "Which dark, small area is the one to remove?", "Fine."),
    ("mentions_marks", "What is outlined in yellow in this picture?", "Fine."),
    ("mentions_marks", "What lies within the bounding box here?", "Fine."),
    ("numbers", "What lies at (120, 340) in this picture?", "Fine."),
    ("numbers", "What lies 30 % from the left edge here?", "Fine."),
    ("no_question_mark", "Point to what makes urine here.", "Fine."),
    ("length", "What is?", "Fine."),
    ("length", "What " + "really " * 70 + "is it?", "Fine."),
    ("empty", "", "Fine."),
    ("think_empty", "Which structure would a clinician worry about?", ""),
    ("think_marks", "Which structure would a clinician worry about?", "The outlined area fits."),
    ("think_contradicts_box", "Which structure would a clinician worry about?", "It lies in the lower right."),
]


@pytest.mark.parametrize(("code", "question", "think"), BAD)
def test_each_kind_of_bad_question_is_rejected(code, question, think, on_the_left):
    assert code in judge(question, think, "left kidney", on_the_left).faults


@pytest.mark.parametrize(
    ("question", "think"),
    [
        ("Which bright structure in the upper left makes urine?", "The left kidney lies at the top left."),
        ("Of the left and the right one, which is meant by the pain on this side?", "Comparing left and right, this."),
        ("What would explain blood in the urine of this patient?", "It is bright and lies beside the spine."),
    ],
)
def test_good_questions_are_accepted(question, think, on_the_left):
    assert judge(question, think, "left kidney", on_the_left).good


def test_the_number_of_the_target_varies(source, tmp_path):
    seen = []

    def look(rows, folder):
        groups = by_image(rows)
        seen.extend(numbered(row, groups, folder)[1] for row in rows)
        for row in rows:
            row.line["question"] = "Which one?"
        return []

    build(read_source(source), tmp_path / "out", Options(), look)
    assert len(set(seen)) >= 3


@pytest.mark.slow
def test_the_command_asks_for_confirmation_before_the_first_request(source, tmp_path):
    command = ["build", str(source), "--out", str(tmp_path / "out"), "--questions", "reasoner"]
    refused = CliRunner().invoke(data, [*command, "--reasoner", "toy"])
    assert "30 requests" in refused.stderr
    assert "cannot ask for confirmation" in str(refused.exception)
    assert CliRunner().invoke(data, command).exception.message == "questions by a reasoner need one reasoner"
    done = CliRunner().invoke(data, [*command, "--reasoner", "toy", "--yes", "--json"])
    assert done.exit_code == 0, done.output
    # The rule reasoner writes no questions at all: every one falls back, and is listed as such.
    assert {row["writing_failed"] for row in lines(tmp_path / "out")} == {"no_json, then no_json"}
    assert (tmp_path / "out" / "written.jsonl").exists()
