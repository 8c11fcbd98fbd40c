"""Nothing fits is an answer and several regions are one: through the pipeline, the files, the counts and the metrics."""

import json

import numpy as np
import pytest
from PIL import Image as Pillow

import medground
from medground.cli import main
from medground.evaluation import instances
from medground.evaluation.metrics import measure
from medground.images.overlay import NOTHING, draw, draw_grounding
from medground.images.read import read_mask
from medground.pipeline.rollouts import RolloutPipeline
from medground.recipe import resolve
from medground.rewards.rubric import rubric
from medground.runs.folder import completion_row
from medground.types import Completion, Fault, Grounding, Mask, Query, Region, Rollout, Sample, Sampling, Target

SIZE = (80, 100)
FIRST, SECOND = medground.Box(10, 20, 40, 60), medground.Box(50, 10, 70, 30)
NONE = "<think>It is not there.</think><answer>[]</answer>"
BROKEN = "<think>?</think><answer>[</answer>"
TWO = (
    '<think>Both.</think><answer>[{"bbox": [10, 20, 40, 60], "label": "left", "confidence": 0.9}, '
    '{"bbox": [50, 10, 70, 30], "label": "right", "confidence": 0.4}]</answer>'
)
RECIPE = {
    "prompt_interface": {"name": "regions", "points": False},
    "segmenter": "box_fill",
    "prompt": "box",
}


def recipe(*texts: str) -> dict:
    return {**RECIPE, "reasoner": {"name": "scripted", "texts": list(texts)}}


def query() -> Query:
    return Query(image=np.full((*SIZE, 3), 90, np.uint8), question="Every node?", id="q")


def box_mask(box: medground.Box) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
    return mask


def sample(*boxes: medground.Box) -> Sample:
    regions = tuple(Region(box=box, points=(), mask=Mask(data=box_mask(box))) for box in boxes)
    return Sample(query=query(), target=Target(regions=regions))


def test_nothing_fits_has_an_empty_mask_and_no_fault():
    result = medground.load(recipe(NONE))(query())
    assert (result.fault, result.regions, result.reasoning) == (None, (), "It is not there.")
    assert result.mask.data.shape == SIZE and not result.mask.data.any()
    assert repr(result) == "GroundingResult(0 regions, mask of 0 px, no fault)"
    assert result.to_dict()["regions"] == [] and result.to_dict()["mask"]["area"] == 0


def test_an_answer_that_could_not_be_read_has_no_mask():
    result = medground.load(recipe(BROKEN))(query())
    assert (result.fault, result.mask, result.regions) == (Fault.BAD_JSON, None, ())
    lost = medground.load(recipe(NONE))
    group = [[Completion(text="", frame=None, fault=Fault.TIMEOUT)]]
    lost.reasoner.generate = lambda batch, sampling: group
    assert lost(query()).mask is None


def test_several_regions_keep_their_masks_and_the_union_is_the_result_s():
    result = medground.load(recipe(TWO))(query())
    assert [
        np.array_equal(one.mask.data, box_mask(box)) for one, box in zip(result.regions, (FIRST, SECOND), strict=True)
    ]
    assert np.array_equal(result.mask.data, box_mask(FIRST) | box_mask(SECOND))
    written = result.to_dict()
    assert [(one["label"], one["confidence"], one["mask"]["area"]) for one in written["regions"]] == [
        ("left", 0.9, 1200),
        ("right", 0.4, 400),
    ]
    assert written["box"] is None and written["mask"]["area"] == 1600


def test_a_rollout_that_abstains_has_an_empty_mask_and_the_dice_of_a_miss():
    resolved = resolve({**recipe(NONE, TWO), "rewards": {"mask_dice": 1}})
    pipeline = RolloutPipeline(medground.Pipeline.from_recipe(resolved), rubric(resolved))
    [group] = pipeline([sample(FIRST)], Sampling(num_generations=2))
    nothing, both = group.rollouts
    assert nothing.mask.data.shape == SIZE and not nothing.mask.data.any()
    assert np.array_equal(both.mask.data, box_mask(FIRST) | box_mask(SECOND))
    assert [score.total for score in group.scores] == [0.0, pytest.approx(2 * 1200 / 2800)]


def abstained(target: Sample) -> Rollout:
    return Rollout(sample=target, completion=Completion(text="", frame=None), grounding=Grounding())


def test_saying_nothing_about_a_target_that_is_there_is_wrong_in_every_metric():
    points = (medground.Point(12, 25), medground.Point(30, 50))
    truth = sample(FIRST).target.regions[0]
    there = Sample(query=query(), target=Target(regions=(Region(box=FIRST, points=points, mask=truth.mask),)))
    measured = measure(abstained(there), prompts=["box", "points", "joint"])
    failed = measure(
        Rollout(sample=there, completion=Completion(text="", frame=None), grounding=Grounding(fault=Fault.NO_ANSWER)),
        prompts=["box", "points", "joint"],
    )
    assert dict(measured.values) == dict(failed.values) and set(measured.values) >= {
        "iou",
        "pdice",
        "dice_box",
        "hd95_px",
    }
    assert measured.fault is None and measured.undefined == {"hd95_px"}


def test_an_absent_target_leaves_the_metrics_of_present_ones_alone():
    assert set(measure(abstained(sample()), prompts=["joint"]).values) <= set(instances.DEFINITIONS)


def test_the_row_of_a_completion_lists_its_regions():
    region = Region(box=FIRST, label="left", confidence=0.5)
    rollout = Rollout(
        sample=sample(FIRST), completion=Completion(text="", frame=None), grounding=Grounding(regions=(region, region))
    )
    row = completion_row(rollout)
    assert row["box"] is None and [one["label"] for one in row["regions"]] == ["left", "left"]
    assert completion_row(abstained(sample()))["regions"] == []


def test_an_overlay_shows_every_region_or_says_that_nothing_fits():
    image = np.full((600, 600, 3), 40, np.uint8)
    boxes = [medground.Box(50, 50, 200, 200), medground.Box(300, 300, 500, 500)]
    both = np.asarray(draw_grounding(image, Grounding(regions=tuple(Region(box=box) for box in boxes))))[:600]
    alone = [np.asarray(draw(image, box=box))[:600] != 40 for box in boxes]
    assert np.array_equal(both != 40, alone[0] | alone[1])
    picture = draw_grounding(image, Grounding())
    assert picture.size == draw(image, caption=NOTHING).size and picture.height > 600
    assert draw_grounding(image, Grounding(fault=Fault.BAD_JSON)).height == 600


def ground(tmp_path, capsys, *texts):
    Pillow.fromarray(query().image).save(tmp_path / "scan.png")
    (tmp_path / "r.yaml").write_text(json.dumps(recipe(*texts)))
    arguments = ["ground", str(tmp_path / "scan.png"), "Every node?", "--recipe", str(tmp_path / "r.yaml")]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path / "out")])
    return stop.value.code, capsys.readouterr().err, json.loads((tmp_path / "out" / "scan.json").read_text())


def test_ground_says_that_nothing_fits_and_succeeds(tmp_path, capsys):
    code, err, result = ground(tmp_path, capsys, NONE)
    assert (code, result["fault"], result["regions"]) == (0, None, [])
    assert "answer    nothing in the image fits the question" in err and "why" not in err
    assert not read_mask(tmp_path / "out" / "scan.mask.png").any()


def test_ground_writes_several_regions_as_a_label_map(tmp_path, capsys):
    code, err, result = ground(tmp_path, capsys, TWO)
    assert code == 0 and "region    2, right, confidence 0.40" in err
    assert read_mask(tmp_path / "out" / "scan.mask.png").sum() == result["mask"]["area"] == 1600
    labels = np.asarray(Pillow.open(tmp_path / "out" / result["files"]["labels"]))
    assert [np.array_equal(labels == number, box_mask(box)) for number, box in ((1, FIRST), (2, SECOND))] == [
        True,
        True,
    ]


def test_run_counts_answers_that_nothing_fits_apart_from_empty_masks(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Pillow.fromarray(query().image).save(tmp_path / "in" / "scan.png")
    (tmp_path / "r.yaml").write_text(json.dumps(recipe(NONE)))
    arguments = ["run", str(tmp_path / "in"), "--question", "Every node?", "--recipe", str(tmp_path / "r.yaml")]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path / "out"), "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert stop.value.code == 0
    assert (summary["ok"], summary["nothing_fits"], summary["masks"], summary["causes"]) == (1, 1, 0, [])


def test_an_evaluation_counts_abstentions_apart_and_knows_the_oracle_of_an_absent_target():
    samples = [sample(FIRST), sample(), sample(FIRST, SECOND)]
    samples = [Sample(query=Query(image=one.query.image + i, question="?", id=f"s{i}"), target=one.target)
               for i, one in enumerate(samples)]  # fmt: skip
    run = medground.evaluate(
        medground.load(recipe(NONE)), "evaluate.n_boot=10", data=samples, conditions=["answer", "oracle_box"]
    )
    answer, oracle = (run.summary.conditions[name] for name in ("answer", "oracle_box"))
    assert (answer.answers, answer.ok, answer.abstentions, answer.failures, answer.masks) == (3, 3, 3, {}, 0)
    assert answer.metrics["dice_joint"].mean == 0 and answer.metrics["dice_joint"].n == 2
    assert (oracle.answers, oracle.abstentions, oracle.masks) == (3, 1, 2)
    assert oracle.metrics["dice_joint"].mean == 1
