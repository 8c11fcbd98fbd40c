"""``medground reward``: lines in, lines out; the released numbers; what is no input."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medground.cli.reward import reward
from medground.errors import InputError, RunError
from medground.images.pictures import write_mask
from medground.images.rle import decode_rle

TRUTH = {"bbox_2d": [10, 10, 30, 30], "point_2d": [[15, 15], [25, 25]]}
PERFECT = (
    '<think>a shadow</think><answer>{"bbox": [10, 10, 30, 30], "points_1": [15, 15], "points_2": [25, 25]}</answer>'
)
OURS = """
prompt_interface: bbox_points
rewards: {format_think: 0.5, bbox_iou: 1, points_dice: 0}
"""


@pytest.fixture
def score(tmp_path):
    """Run ``reward score`` on lines; give (exit code or error, result lines, stderr)."""

    def run(lines, *arguments, recipe=OURS):
        if "\n" in recipe:
            (tmp_path / "recipe.yaml").write_text(recipe)
            recipe = str(tmp_path / "recipe.yaml")
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (tmp_path / "lines.jsonl").write_text(text, encoding="utf-8", errors="surrogateescape")
        result = CliRunner().invoke(reward, ["score", recipe, str(tmp_path / "lines.jsonl"), *arguments])
        if result.exception is not None and not isinstance(result.exception, (InputError, RunError, SystemExit)):
            raise result.exception
        results = [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]
        code = getattr(result.exception, "exit_code", result.exit_code)
        return code, results, f"{result.stderr}{result.exception or ''}"

    return run


def line(prediction=PERFECT, truth=None, **others):
    return {"prediction": prediction, "ground_truth": {**TRUTH, **(truth or {})}, **others}


def test_one_result_per_line_in_order(score):
    code, results, summary = score([line(), line("no answer"), line(PERFECT.replace("10, 10, 30", "20, 10, 30"))])
    assert code == 0
    assert results[0] == {
        "score": 1.5,
        "terms": {
            "format_think": {"value": 1.0, "weight": 0.5, "details": {}},
            "bbox_iou": {"value": 1.0, "weight": 1.0, "details": {}},
            "points_dice": {"value": 1.0, "weight": 0.0, "details": {}},
        },
        "fault": None,
    }
    assert (results[1]["fault"], results[1]["score"]) == ("no_answer", 0.0)
    assert results[2]["terms"]["bbox_iou"]["value"] == 0.5
    assert "3 lines, 3 scored" in summary


def test_json_leaves_stderr_empty(score):
    assert score([line()], "--json")[2] == ""


def test_overrides_change_weights(score):
    assert score([line()], "rewards.bbox_iou=3", "--json")[1][0]["score"] == 3.5


def test_without_size_and_frame_nothing_is_out_of_frame(score):
    far = PERFECT.replace("10, 10, 30, 30", "-10, 10, 3000, 30")
    _, results, _ = score([line(far), line(far, size=[100, 200])])
    assert [result["fault"] for result in results] == [None, "out_of_frame"]


@pytest.mark.parametrize(
    "frame",
    ["permille", {"kind": "permille"}, {"kind": "permille", "order": "yx"}, {"kind": "pixel", "size": [500, 1000]}],
)
def test_a_frame_converts(score, frame):
    numbers = {"bbox": [100, 20, 300, 60], "points_1": [150, 30], "points_2": [250, 50]}
    if isinstance(frame, dict) and frame.get("order") == "yx":
        numbers = {"bbox": [20, 100, 60, 300], "points_1": [30, 150], "points_2": [50, 250]}
    if isinstance(frame, dict) and frame["kind"] == "pixel":
        numbers = {"bbox": [100, 10, 300, 30], "points_1": [150, 15], "points_2": [250, 25]}
    truth = {"bbox_2d": [10, 10, 30, 30], "point_2d": [[15, 15], [25, 25]]}
    answer = f"<think>a</think><answer>{json.dumps(numbers)}</answer>"
    _, (results,), _ = score([line(answer, truth, size=[500, 100], frame=frame)])
    assert results["score"] == pytest.approx(1.5)


def test_a_frame_alone_says_the_size_and_plain_pixels_need_none(score):
    thousandths = PERFECT.replace("10, 10, 30, 30", "100, 100, 300, 300")
    frame = {"kind": "permille", "size": [100, 100]}
    _, results, _ = score([line(thousandths, frame=frame), line(frame="pixel")], "rewards.points_dice=null")
    assert [result["score"] for result in results] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "not JSON"),
        ("{", "line 2"),
        ("[1]", "prediction"),
        ('{"prediction": 3, "ground_truth": {}}', "prediction"),
        ({"prediction": "x"}, "ground_truth"),
        (line(truth={"bbox_2d": [1, 2, 3]}), "bbox_2d"),
        (line(truth={"bbox_2d": [1, 2, 3, True]}), "bbox_2d"),
        ('{"prediction": "", "ground_truth": {"bbox_2d": [NaN, 0, 1, 1], "point_2d": []}}', "bbox_2d"),
        (line(truth={"point_2d": [[1, "2"]]}), "point_2d"),
        (line(truth={"mask": {"size": [2, 2], "counts": [1]}}), "add up to 4"),
        (line(truth={"mask": {"size": [2, 2], "counts": [4]}}), "empty"),
        (line(truth={"mask": 7}), "named by a text"),
        (line(truth={"bbox_2d": [30, 10, 10, 30]}), "reversed"),
        (line(truth={"mask": "../outside.png"}), "outside the folder"),
        (line(truth={"mask": "/etc/hostname"}), "outside the folder"),
        (line(truth={"mask": "nowhere.png"}), "nowhere.png"),
        (line(size=[0, 5]), "size"),
        (line(size=[5.5, 5]), "size"),
        (line(size=[9, 9], truth={"mask": {"size": [2, 2], "counts": [0, 4]}}), "mask is (2, 2)"),
        (line(frame="furlong", size=[9, 9]), "furlong"),
        (line(frame="permille"), "without a size"),
        (line(frame={"kind": "pixel", "colour": 1}, size=[9, 9]), "frame"),
        ("[" * 100_000, "not JSON"),
        ("\udcff", "not UTF-8"),
    ],
    ids=str,
)
def test_an_invalid_line_keeps_its_position_and_the_exit_code_is_3(score, bad, why):
    code, results, summary = score([line(), bad, line()])
    assert code == 3
    assert [result["score"] for result in results] == [1.5, None, 1.5]
    assert results[1]["terms"] == {}
    assert results[1]["error"].startswith("line 2: ")
    assert why in results[1]["error"]
    assert "1 of 3 lines" in summary


def test_the_truth_may_be_several_targets_or_none(score):
    one, other = ({"bbox_2d": box, "point_2d": []} for box in ([0, 0, 10, 10], [20, 20, 40, 40]))
    both = '<answer>[{"bbox": [20, 20, 40, 40]}, {"bbox": [0, 0, 10, 10]}]</answer>'
    lines = [
        {"prediction": prediction, "ground_truth": truth}
        for prediction in (both, "<answer>[]</answer>")
        for truth in ([one, other], [one], [])
    ]
    recipe = "prompt_interface: {name: regions, points: false, think: false}\nrewards: {regions_f1: 1}\n"
    code, rows, summary = score(lines, recipe=recipe)
    assert code == 0, summary
    assert [row["score"] for row in rows] == [1, pytest.approx(2 / 3), 0, 0, 0, 1]


def test_a_file_that_is_not_there_is_bad_input(tmp_path):
    result = CliRunner().invoke(
        reward, ["score", "infer/toy", str(tmp_path / "none.jsonl"), "--term", f"a={__file__}:x"]
    )
    assert result.exit_code != 0


def test_the_users_own_term_is_scored_and_its_file_hashed(score, tmp_path):
    (tmp_path / "my.py").write_text("def fn(rollout):\n    return len(rollout.completion.text)\n")
    (_, (results,), _) = score([line("abcd")], "--term", f"length={tmp_path / 'my.py'}:fn")
    digest = hashlib.sha256((tmp_path / "my.py").read_bytes()).hexdigest()
    assert results["terms"]["length"] == {
        "value": 4.0,
        "weight": 1.0,
        "details": {"source": "my.py:fn", "sha256": digest},
    }
    assert results["score"] == 4.0


def test_a_failing_term_is_named_in_its_line_and_counted(score, tmp_path):
    (tmp_path / "my.py").write_text("def fn(rollout):\n    return float('nan')\n")
    code, (results,), summary = score([line()], "--term", f"bad={tmp_path / 'my.py'}:fn")
    assert (code, results["score"]) == (1, None)
    failure = results["terms"]["bad"]["details"]["failure"]
    assert failure["kind"] == "nan"
    assert "'line 1'" in failure["cause"]
    assert "bad: nan 1 times" in summary


MASKS = """
prompt_interface: bbox_points
segmenter: box_fill
rewards: {bbox_iou: 1, mask_dice: 1}
"""


def test_mask_terms_use_the_recipes_segmenter_where_the_line_has_an_image(score, tmp_path):
    from PIL import Image

    truth = np.zeros((40, 50), bool)
    truth[10:30, 10:30] = True
    write_mask(tmp_path / "truth.png", truth)
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "image.png")
    code, results, _ = score(
        [
            line(truth={"mask": "truth.png"}, image="image.png"),
            line(truth={"mask": "truth.png"}),
            line("nothing", truth={"mask": "truth.png"}),
            line(image="image.png"),
        ],
        recipe=MASKS,
    )
    assert code == 0
    assert [result["score"] for result in results] == [2.0, 1.0, 0.0, 1.0]
    words = [result["terms"]["mask_dice"] for result in results]
    assert [term["value"] for term in words] == [1.0, None, 0.0, None]
    assert words[1]["details"]["undefined"] != words[3]["details"]["undefined"]


def encoded(mask):
    """A mask as COCO writes it: (run lengths, compressed string)."""
    flat = mask.reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    bounds = np.concatenate([[0], edges, [flat.size]])
    runs = np.diff(bounds).tolist()
    runs = runs[:-1] if runs[-1] == 0 else runs
    text = ""
    for index, run in enumerate(runs):
        value, more = run - runs[index - 2] if index > 2 else run, True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            text += chr(48 + (group | 32 if more else group))
    return runs, text


@given(st.tuples(st.integers(1, 60), st.integers(1, 60)).flatmap(lambda shape: arrays(bool, shape)))
def test_run_lengths_come_back_as_the_mask(mask):
    runs, text = encoded(mask)
    for counts in (runs, text):
        assert (decode_rle({"size": list(mask.shape), "counts": counts}) == mask).all()


def test_a_run_length_string_as_pycocotools_writes_it():
    mask = np.zeros((9, 10), bool)
    mask[2:6, 3:8] = True
    assert (decode_rle({"size": [9, 10], "counts": "m0450000000`0"}) == mask).all()


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [2, 2]},
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2, 2], "counts": [2.0, 2]},
        {"size": [2, -2], "counts": []},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [2, 2], "counts": "o" * 100_000},
        {"size": [2, 2], "counts": "é"},
        {"size": [2, 2], "counts": "4o"},
    ],
    ids=str,
)
def test_an_invalid_run_length_mask_is_refused(rle):
    with pytest.raises(InputError, match="run"):
        decode_rle(rle)


@pytest.mark.parametrize("mode", ["soft", "hard", "base"])
def test_released_numbers_on_every_oracle_case(mode):
    path = Path(__file__).with_name("data") / "released_rewards.jsonl"
    result = CliRunner().invoke(reward, ["score", f"train/medreasoner_{mode}", str(path), "--json"])
    cases = [json.loads(text) for text in path.read_text().splitlines()]
    results = [json.loads(text, parse_constant=pytest.fail) for text in result.stdout.splitlines()]
    assert sum(_agree(case[mode], line) for case, line in zip(cases, results, strict=True)) == 300


def _agree(released, line):
    values = {key: value for key, value in released.items() if key != "score"}
    return (
        set(values) == set(line["terms"])
        and all(
            _same(values[key], term["value"], term["details"].get("released")) for key, term in line["terms"].items()
        )
        and _same(released["score"], line["score"], "nan")
    )


def _same(released, value, words):
    if math.isnan(released):
        return value is None and words == "nan"
    return value is not None and abs(released - value) <= 1e-9
