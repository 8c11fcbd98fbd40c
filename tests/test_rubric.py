"""Rubrics: sums, abstentions, failures by name, alarms, and functions written for other trainers."""

import asyncio
import hashlib
import json
import math
import pickle
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import trl.rewards

import medground
from medground.errors import InputError, RecipeError
from medground.geometry import Box, Point
from medground.rewards.adapters import from_trl, from_verl, user_reward
from medground.rewards.rubric import ConstantAlarm, Rubric, failure_counts, usable_groups
from medground.rewards.term import Term
from medground.types import (
    Completion,
    Fault,
    Grounding,
    Mask,
    Query,
    Region,
    RewardResult,
    Rollout,
    Sample,
    Target,
)


def rollout(id="s1", text="", tokens=None, fault=None, cause="", lost=None):
    query = Query(image=np.zeros((4, 4, 3), np.uint8), question="where?", id=id)
    region = Region(box=Box(0, 0, 2, 2), points=(Point(0, 0), Point(1, 1)), mask=Mask(data=np.zeros((4, 4), bool)))
    return Rollout(
        sample=Sample(query=query, target=Target(regions=(region,)), labels={"organ": "lung"}),
        completion=Completion(text=text, frame=None, token_ids=tokens, fault=lost),
        grounding=Grounding(regions=(replace(region, mask=Mask(data=np.zeros((4, 4), bool))),)),
        fault=fault,
        cause=cause,
    )


class Says:
    """A term that answers what the completion's text spells."""

    needs_mask = False
    range = (0.0, 1.0)
    words = {"none": None, "nan": math.nan, "inf": math.inf, "list": [1.0], "string": "1.0", "bool": True}  # noqa: RUF012

    def __call__(self, rollout):
        text = rollout.completion.text
        if text == "raise":
            raise ZeroDivisionError("by zero")
        if text == "exit":
            sys.exit(0)
        return RewardResult(self.words[text] if text in self.words else float(text), {"text": text})


def total(*texts, weights=None):
    """The total of one rollout whose terms say `texts`."""
    terms = [
        Term(f"t{index}", lambda _, text=text: Says()(rollout(text=text)), weight)
        for index, (text, weight) in enumerate(zip(texts, weights or [1.0] * len(texts), strict=True))
    ]
    (score,) = Rubric(terms)([rollout()])
    return score.total


@pytest.mark.slow
def test_values_weights_and_sums_are_kept_apart():
    rubric = Rubric([Term("a", lambda _: 0.5, 4.0), Term("b", lambda _: 0.25, 0.0), ("c", lambda _: 1, -1.0)])
    (score,) = rubric([rollout()])
    assert score.total == 1.0
    assert {label: (term.value, term.weight, term.weighted) for label, term in score.terms.items()} == {
        "a": (0.5, 4.0, 2.0),
        "b": (0.25, 0.0, 0.0),
        "c": (1.0, -1.0, -1.0),
    }
    assert not score.failed
    assert rubric.labels == ("a", "b", "c")


@pytest.mark.slow
def test_an_abstention_adds_nothing_and_a_sample_without_values_has_no_score():
    assert total("none", "0.5") == 0.5
    assert total("none", "none") is None
    assert total("none", "0.5", weights=[1.0, 0.0]) is None
    assert total("0.5", "0.7", weights=[0.0, 0.0]) == 0
    (score,) = Rubric([Term("a", lambda _: None)])([rollout()])
    assert not score.failed


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("raise", "raised"),
        ("exit", "raised"),
        ("nan", "nan"),
        ("inf", "infinite"),
        ("list", "wrong_type"),
        ("string", "wrong_type"),
    ],
)
def test_a_misbehaving_term_costs_its_sample_only_and_is_named(text, kind):
    scores = Rubric([Term("says", Says()), Term("one", lambda _: 1.0)])(
        [rollout("good", "0.5"), rollout("bad", text), rollout("fine", "bool")]
    )
    assert [score.total for score in scores] == [1.5, None, 2.0]
    (failure,) = scores[1].failures
    assert failure.kind == scores[1].terms["says"].failure.kind == kind
    assert "'says'" in failure.cause
    assert "'bad'" in failure.cause
    assert scores[1].terms["one"].value == 1.0
    assert scores[1].failed
    assert failure_counts(scores) == {kind: 1}


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (10**400, "infinite"),
        (Fraction(-(10**400)), "infinite"),
        (RewardResult(1.0, None), "wrong_type"),
        (RewardResult(None, ["why"]), "wrong_type"),
        (Unspeakable(), "raised"),
    ],
)
def test_an_answer_that_is_no_number_is_a_failure(answer, kind):
    def term(_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    (score,) = Rubric([Term("odd", term), Term("one", lambda _: 1.0)])([rollout("bad")])
    (failure,) = score.failures
    assert (score.total, failure.kind, score.terms["one"].value) == (None, kind, 1.0)
    assert "'odd'" in failure.cause and "'bad'" in failure.cause


def test_a_numpy_truth_value_is_a_number_as_pythons_is():
    (score,) = Rubric([Term("big", lambda _: np.float64(2) > 1)])([rollout()])
    assert score.total == 1.0


def test_a_sum_beyond_floats_is_a_failure():
    (score,) = Rubric([Term("a", lambda _: 1e308, 9.0), Term("b", lambda _: 1.0)])([rollout("bad")])
    assert score.total is None and score.failed
    assert [failure.kind for failure in score.failures] == ["infinite"] and "'bad'" in score.failures[0].cause
    assert [term.value for term in score.terms.values()] == [1e308, 1.0]


def test_an_observed_term_may_fail_without_costing_the_total():
    (score,) = Rubric([Term("one", lambda _: 1.0), Term("says", Says(), 0.0)])([rollout(text="raise")])
    assert score.total == 1.0
    assert not score.failed
    assert failure_counts([score]) == {"raised": 1}


@pytest.mark.slow
@pytest.mark.parametrize("released", ["nan", "inf"])
def test_a_released_nan_is_a_named_failure(released):
    term = Term("bbox_iou", lambda _: RewardResult(None, {"released": released}))
    (score,) = Rubric([term])([rollout("s7")])
    assert score.total is None
    assert score.terms["bbox_iou"].details == {"released": released}
    assert score.failures[0].kind == "released"
    (observed,) = Rubric([Term("a", lambda _: 1.0), Term("b", term.reward, 0.0)])([rollout()])
    assert observed.total == 1.0


class Batch:
    needs_mask = False
    range = (0.0, 9.0)
    in_process = True  # it counts its calls

    def __init__(self, answer):
        self.answer, self.calls = answer, 0

    def batch(self, rollouts):
        self.calls += 1
        return self.answer(rollouts)


def test_a_batch_term_is_called_once_with_all():
    term = Batch(lambda rollouts: [RewardResult(float(index)) for index, _ in enumerate(rollouts)])
    scores = Rubric([Term("b", term)])([rollout(), rollout(), rollout()])
    assert [score.total for score in scores] == [0, 1, 2]
    assert term.calls == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda _: [RewardResult(1.0)], "wrong_length"),
        (lambda _: 1.0, "wrong_type"),
        (lambda _: "12", "wrong_type"),
        (lambda rollouts: 1 / 0, "raised"),
    ],
)
def test_a_broken_batch_fails_every_sample_by_name(answer, kind):
    scores = Rubric([Term("b", Batch(answer))])([rollout("x"), rollout("y")])
    assert failure_counts(scores) == {kind: 2}
    assert [("'x'" in s.failures[0].cause, "'y'" in s.failures[0].cause) for s in scores] == [
        (True, False),
        (False, True),
    ]


def test_one_bad_value_in_a_batch_costs_one_sample():
    scores = Rubric([Term("b", Batch(lambda _: [1.0, math.nan]))])([rollout(), rollout()])
    assert [score.total for score in scores] == [1.0, None]


def test_an_outage_is_not_scored_and_a_model_fault_is():
    rubric = Rubric([Term("one", lambda _: 1.0)])
    outage, lost, wrong = rubric(
        [
            rollout("a", fault=Fault.SEGMENTER, cause="the segmenter ran out of patience"),
            rollout("b", lost=Fault.TRANSPORT),
            rollout("c"),
        ]
    )
    assert (outage.total, lost.total, wrong.total) == (None, None, 1.0)
    assert outage.terms == {}
    assert failure_counts([outage, lost, wrong]) == {"segmenter": 1, "transport": 1}
    assert "patience" in outage.failures[0].cause


@pytest.mark.slow
def test_a_failure_leaves_its_group_out():
    rubric = Rubric([Term("says", Says())])
    groups = [rubric([rollout(text=a), rollout(text=b)]) for a, b in (("0", "1"), ("0", "nan"), ("none", "1"))]
    assert usable_groups(groups) == [True, False, False]


@pytest.mark.slow
def test_terms_cannot_write_to_what_they_read():
    def spoil_truth(rollout):
        rollout.sample.target.mask[:] = True

    def spoil_mask(rollout):
        rollout.grounding.regions[0].mask.data[:] = True

    def foreground(rollout):
        return int(rollout.sample.target.mask.sum() + rollout.mask.data.sum())

    answer = rollout()
    terms = [Term("truth", spoil_truth), Term("mask", spoil_mask), Term("foreground", foreground)]
    (score,) = Rubric(terms)([answer])
    assert score.terms["truth"].failure.kind == score.terms["mask"].failure.kind == "raised"
    assert score.terms["foreground"].value == 0
    answer.sample.target.mask[:] = True  # and afterwards its owner may again


def test_labels_are_unique_and_weights_finite():
    with pytest.raises(RecipeError, match="'a'"):
        Rubric([Term("a", len), Term("a", len)])
    with pytest.raises(RecipeError, match="nan"):
        Rubric([Term("a", len, math.nan)])


def test_a_rubric_needs_masks_when_a_term_does():
    says = Says()
    assert not Rubric([Term("a", says)]).needs_mask
    says.needs_mask = True
    assert Rubric([Term("a", says, 0.0)]).needs_mask


@pytest.mark.slow
def test_a_constant_term_is_reported_once_by_name():
    alarm = ConstantAlarm(steps=20)
    rubric = Rubric([Term("dead", lambda _: 0.0), Term("alive", Says()), Term("mute", lambda _: None)])
    reports = [alarm.feed(rubric([rollout(text=str(step)), rollout(text="1")])) for step in range(25)]
    assert reports[19] == ["dead", "mute"]
    assert not any(reports[:19] + reports[20:])


@pytest.mark.slow
def test_one_other_value_restarts_the_count_and_state_is_plain_data():
    alarm = ConstantAlarm(steps=3)
    rubric = Rubric([Term("says", Says())])
    said = [alarm.feed(rubric([rollout(text=text)])) for text in ("1", "1", "2", "2")]
    assert not any(said)
    other = ConstantAlarm(steps=3)
    other.runs = {label: tuple(run) for label, run in json.loads(json.dumps(alarm.runs)).items()}
    assert other.feed(rubric([rollout(text="2")])) == ["says"]


def test_a_recipe_gives_its_rubric_with_overrides():
    plain, found = (
        {term.label: term.weight for term in medground.rubric("train/soft", *overrides).terms}
        for overrides in ((), ("rewards.bbox_iou=9", "rewards.format_seg=null"))
    )
    assert found == {**{label: weight for label, weight in plain.items() if label != "format_seg"}, "bbox_iou": 9.0}
    assert "format_seg" in plain
    with pytest.raises(RecipeError, match="no rewards"):
        medground.rubric("infer/toy")


THINKS = "<think>\nshadow\n</think>\nanswer"


def test_trl_think_format_reward_runs_unmodified():
    rubric = Rubric([Term("format", from_trl(trl.rewards.think_format_reward))])
    scores = rubric([rollout(text=THINKS), rollout(text="no tags")])
    assert [score.total for score in scores] == [1.0, 0.0]


@pytest.mark.slow
def test_trl_length_and_repetition_rewards_run_on_token_ids():
    rubric = Rubric(
        [
            Term("overlong", from_trl(trl.rewards.get_soft_overlong_punishment(100, 20))),
            Term("repetition", from_trl(trl.rewards.get_repetition_penalty_reward(2, -1.0))),
        ]
    )
    (long,) = rubric([rollout(tokens=np.ones(90, np.int32))])
    assert long.terms["overlong"].value == -0.5
    assert long.terms["repetition"].value == pytest.approx(-1 + 1 / 89)
    (without,) = rubric([rollout()])
    assert failure_counts([without]) == {"raised": 2}


def test_trl_accuracy_reward_fails_by_name_where_its_package_is_missing_or_runs():
    term = from_trl(trl.rewards.accuracy_reward, columns={"solution": lambda _: r"\frac{1}{3}"})
    (score,) = Rubric([Term("accuracy", term)])([rollout("q9", r"My answer is \boxed{\frac{1}{3}}")])
    if score.failed:
        assert "math_verify" in score.failures[0].cause
        assert "'q9'" in score.failures[0].cause
    else:
        assert score.total == 1.0


def test_trl_columns_plain_text_abstention_and_logging():
    def reward(prompts, completions, organ, ground_truth, log_extra, log_metric, **_):
        assert prompts == ["where?", "where?"]
        assert organ == ["lung", "lung"]
        assert json.loads(ground_truth[0]) == {"bbox_2d": [0, 0, 2, 2], "point_2d": [[0, 0], [1, 1]]}
        log_extra("length", [len(text) for text in completions])
        log_metric("mean", 2.0)
        return [None, 0.5]

    first, second = Rubric([Term("r", from_trl(reward, conversational=False))])([rollout(text="abc"), rollout()])
    assert (first.total, second.total) == (None, 0.5)
    assert first.terms["r"].details == {"length": 3, "mean": 2.0}


def test_a_foreign_batch_of_the_wrong_length_is_a_failure():
    scores = Rubric([Term("r", from_trl(lambda **_: [1.0]))])([rollout(), rollout()])
    assert failure_counts(scores) == {"wrong_length": 2}


async def later(completions, **_):
    await asyncio.sleep(0)
    return [float(len(completion[0]["content"])) for completion in completions]


def test_async_functions_run_with_and_without_a_running_loop():
    rubric = Rubric([Term("r", from_trl(later))])
    assert rubric([rollout(text="abc")])[0].total == 3

    async def notebook():
        return rubric([rollout(text="abcd")])

    assert asyncio.run(notebook())[0].total == 4


def verl_score(data_source, solution_str, ground_truth, extra_info=None):
    right = json.loads(ground_truth)["bbox_2d"] == [0, 0, 2, 2]
    return {"score": float(right and data_source == "umrg"), "organ": extra_info["organ"], "chars": len(solution_str)}


def test_verl_functions_give_scores_and_details():
    rubric = Rubric([Term("v", from_verl(verl_score)), Term("n", from_verl(lambda **kwargs: 0.5))])
    (score,) = rubric([rollout(text="abc")])
    assert score.total == 1.5
    assert score.terms["v"].details == {"organ": "lung", "chars": 3}
    (broken,) = Rubric([Term("v", from_verl(lambda **_: {"reward": 1.0}))])([rollout()])
    assert broken.failures[0].kind == "raised"


def test_adapters_pickle():
    assert pickle.loads(pickle.dumps(from_verl(verl_score)))(rollout()).value == 1.0
    assert pickle.loads(pickle.dumps(from_trl(later)))(rollout(text="ab")).value == 2.0


def test_the_users_own_file_is_hashed_into_every_detail(tmp_path):
    file = tmp_path / "my.py"
    file.write_text("def fn(rollout):\n    return len(rollout.completion.text) / 10\n")
    label, term = user_reward(f"length={file}:fn")
    (score,) = Rubric([Term(label, term)])([rollout(text="abc")])
    assert score.total == 0.3
    assert score.terms["length"].details == {
        "source": "my.py:fn",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


@pytest.mark.slow
def test_the_users_own_file_may_hold_an_adapted_function(tmp_path):
    file = tmp_path / "my.py"
    file.write_text(
        "from medground.rewards.adapters import from_trl\n\nfn = from_trl(lambda completions, **_: [0.5] * len(completions))\n"
    )
    label, term = user_reward(f"half={file}:fn")
    assert [score.total for score in Rubric([Term(label, term)])([rollout(), rollout()])] == [0.5, 0.5]


@pytest.mark.slow
def test_a_term_that_cannot_be_loaded_is_said(tmp_path):
    file = tmp_path / "my.py"
    file.write_text("def reward(rollout):\n    return 1.0\n")
    with pytest.raises(RecipeError, match=r"NAME=my\.py:function"):
        user_reward("my.py:fn")
    with pytest.raises(RecipeError, match="did you mean 'reward'"):
        user_reward(f"a={file}:rewrad")
    with pytest.raises(InputError, match="cannot be read"):
        user_reward("a=nowhere.py:fn")
    file.write_text("1 / 0")
    with pytest.raises(InputError, match="ZeroDivisionError"):
        user_reward(f"a={file}:fn")
