"""Evaluations end to end on phantoms: conditions, resumption, saved answers, comparisons, the released aggregation."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import medground
from medground.cli import main
from medground.data.open_dataset import open_dataset
from medground.errors import InputError, Interrupted, RecipeError, RunError
from medground.evaluation.conditions import CONDITIONS, EvalContext, conditions_of, perfect_mask
from medground.evaluation.evaluator import beginning
from medground.evaluation.released import statistics
from medground.evaluation.results import ClusterCounts
from medground.evaluation.results_file import cluster_of, read_records
from medground.frames import Frame
from medground.geometry import Box, Point, mask_dice
from medground.images.rle import decode_rle, encode_rle
from medground.pipeline.cache import StageCache
from medground.registry import discovery, loading
from medground.runs import jsonable
from medground.types import Query, Region, Sample, SpatialPrompt, Target


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    from medground_toy import phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write(folder, phantoms.samples(10, seed=3, size=(96, 96)))
    return folder


def recipe(phantoms, *, reasoner="toy", segmenter="ellipse", **evaluate):
    return {
        "reasoner": reasoner,
        "prompt_interface": "bbox_points",
        "segmenter": segmenter,
        "data": {"path": str(phantoms)},
        "evaluate": {"n_boot": 200, "batch_size": 4, **evaluate},
    }


def scripted(*texts):
    return {"name": "scripted", "texts": list(texts)}


def answer(box, points=((10, 10), (20, 20))):
    return (
        f'<think>There.</think><answer>{{"bbox": {list(box)}, "points_1": {list(points[0])}, '
        f'"points_2": {list(points[1])}}}</answer>'
    )


@pytest.fixture(scope="module")
def plain(phantoms, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "plain"
    return medground.evaluate(recipe(phantoms), out=out)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_the_folder_holds_summary_records_metadata_and_recipe(plain, phantoms):
    assert set(files(plain.folder)) >= {
        "metrics.json",
        "samples.jsonl",
        "run.json",
        "recipe.yaml",
        "recipe.source.yaml",
    }
    assert json.loads((plain.folder / "metrics.json").read_text()) == jsonable.plain(plain.summary)
    lines = [json.loads(line) for line in (plain.folder / "samples.jsonl").read_text().splitlines()]
    assert lines == jsonable.plain(plain.records)
    assert list(read_records(plain.folder / "samples.jsonl")) == plain.records
    assert [line["id"] for line in lines] == open_dataset(phantoms).ids
    about = json.loads((plain.folder / "run.json").read_text())
    assert set(about["plugins"]) == {"reasoner.toy", "prompt_interface.bbox_points", "segmenter.ellipse"}
    assert len(about["prompt_sha256"]) == 64
    assert about["versions"]["medground"]


@pytest.mark.slow
def test_the_numbers_are_those_of_the_pipeline(plain, phantoms):
    samples = open_dataset(phantoms)
    graph = medground.load(recipe(phantoms))
    result = graph.batch([sample.query for sample in samples])
    pairs = zip(result, samples, strict=True)
    dice = [mask_dice(one.mask.data, sample.target.mask) for one, sample in pairs]
    assert plain.mean("dice_joint") == pytest.approx(np.mean(dice))
    assert plain.mean("dice_over_ellipse") == 0
    for line, one in zip(plain.records, result, strict=True):
        (only,) = line.answers
        assert only.text == one.completion.text
        assert only.box == list(one.grounding.region.box)
        assert (decode_rle(only.masks["joint"].rle) == one.mask.data).all()


def test_every_mean_has_an_interval_a_count_and_a_definition(plain):
    condition = plain.summary.conditions["answer"]
    assert {"iou", "pdice", "dice_box", "dice_points", "dice_joint", "dice_ellipse", "boundary_f", "hd95_px"} <= set(
        condition.metrics
    )
    for row in condition.metrics.values():
        assert row.low <= row.mean <= row.high
        assert row.n == 10
        assert row.definition
    assert plain.summary.clusters == ClusterCounts(count=row.clusters, by={"image": row.clusters})
    assert condition.ok + sum(condition.failures.values()) + sum(condition.excluded.values()) == condition.answers == 10
    for group in (*condition.groups.values(), condition.crossed):
        assert sum(row.samples for row in group) == 10


def test_failures_stay_in_every_mean_and_are_counted(phantoms):
    good = medground.evaluate(recipe(phantoms, reasoner=scripted(answer((10, 10, 60, 60)))))
    mixed = scripted(answer((10, 10, 60, 60)), "I cannot help with that.")
    bad = medground.evaluate(recipe(phantoms, reasoner=mixed), "sampling.num_generations=2")
    condition = bad.summary.conditions["answer"]
    assert (condition.answers, condition.ok, condition.failures, condition.refusals) == (
        20,
        10,
        {"no_answer": 10},
        10,
    )
    for rows in (*condition.groups.values(), condition.crossed):
        assert sum(row.refusals for row in rows) == sum(row.failures.get("no_answer", 0) for row in rows) == 10
        assert all(row.ok + sum(row.failures.values()) == row.answers for row in rows)
    assert bad.mean("iou") == pytest.approx(good.mean("iou") / 2), "the mean of a sample is that of its k answers"
    assert bad.mean("dice_joint") == pytest.approx(good.mean("dice_joint") / 2)
    assert bad.summary.answers_per_sample == 2


def test_seeds_draw_more_answers(phantoms):
    result = medground.evaluate(
        recipe(phantoms, seeds=[0, 1], limit=3), "sampling.temperature=1", "sampling.num_generations=2"
    )
    assert all(len(line.answers) == 4 for line in result.records)
    assert len({each.text for each in result.records[0].answers}) > 1
    with pytest.raises(RecipeError, match="gives the same answers again"):
        medground.evaluate(recipe(phantoms, seeds=[0, 1]))


@pytest.mark.slow
@pytest.mark.parametrize("turn", [1, 3])
def test_a_killed_and_resumed_evaluation_writes_the_same_bytes(phantoms, plain, tmp_path, turn):
    out, source = tmp_path / "run", tmp_path / "recipe.yaml"
    source.write_text(json.dumps(recipe(phantoms)))  # JSON is YAML
    command = [sys.executable, "-m", "medground", "eval", str(source), "--out", str(out)]
    dead = subprocess.run(command, env={**os.environ, "MEDGROUND_FAULT": f"eval.mid:kill:{turn}"})
    assert dead.returncode == -9
    with (out / "samples.jsonl").open("a") as file:
        file.write('{"condition": "answer", "id": "torn')
    again = medground.evaluate(recipe(phantoms), out=out, resume=True)
    assert again.before == 4 * (turn - 1)
    for name in ("samples.jsonl", "metrics.json"):
        assert (out / name).read_bytes() == (plain.folder / name).read_bytes()


@pytest.mark.slow
def test_a_stopped_evaluation_can_be_resumed_and_no_other_in_its_folder(phantoms, tmp_path):
    answers = iter([False, True])
    with pytest.raises(Interrupted, match="stopped after 4 of 10 lines"):
        medground.evaluate(recipe(phantoms), out=tmp_path / "run", stopped=lambda: next(answers))
    with pytest.raises(RunError, match="holds a run already"):
        medground.evaluate(recipe(phantoms), out=tmp_path / "run")
    with pytest.raises(RunError, match="holds another evaluation"):
        medground.evaluate(recipe(phantoms, segmenter="box_fill"), "prompt=box", out=tmp_path / "run", resume=True)
    done = medground.evaluate(recipe(phantoms), "evaluate.n_boot=100", out=tmp_path / "run", resume=True)
    assert (done.before, len(done.records)) == (4, 10)


@pytest.mark.slow
def test_saved_answers_are_scored_again_without_their_reasoner(plain, phantoms, tmp_path):
    never = recipe(phantoms, reasoner={"name": "qwen3_vl", "checkpoint": "???"}, segmenter="threshold")
    result = medground.evaluate(never, predictions=plain.folder, baseline=plain.folder, out=tmp_path / "again")
    assert [line.answers[0].text for line in result.records] == [line.answers[0].text for line in plain.records]
    assert result.mean("iou") == plain.mean("iou")
    assert result.mean("dice_joint") != plain.mean("dice_joint")
    rows = {row.metric: row for row in result.summary.baseline.comparisons}
    assert rows["dice_joint"].difference == pytest.approx(result.mean("dice_joint") - plain.mean("dice_joint"))
    assert rows["iou"].p == rows["iou"].p_holm == 1
    assert all(row.p <= row.p_holm for row in rows.values())
    with pytest.raises(InputError, match="no answer for 10 of 10 samples"):
        medground.evaluate(recipe(phantoms), predictions=_lines(tmp_path, [{"id": "x", "prediction": ""}]))


def test_predictions_that_answer_one_sample_twice_and_another_once_are_refused(phantoms, tmp_path):
    ids = open_dataset(phantoms).ids
    lines = [{"id": name, "prediction": ""} for name in ids]
    with pytest.raises(InputError, match=f"has 2 answers for sample {ids[0]} and 1 for {ids[1]}"):
        medground.evaluate(recipe(phantoms), predictions=_lines(tmp_path, [*lines, lines[0]]))
    unusable = {"id": ids[0], "text": None, "fault": "unusable_input"}
    result = medground.evaluate(recipe(phantoms), predictions=_lines(tmp_path, [unusable, *lines[1:], *lines[1:]]))
    assert [len(record.answers) for record in result.records] == [1, *[2] * (len(ids) - 1)]


def test_lines_with_predictions_and_truths_need_no_dataset(phantoms, tmp_path):
    truth = {"bbox_2d": [10, 10, 60, 60], "point_2d": [[10, 10], [20, 20]]}
    lines = [{"prediction": answer((10, 10, 60, 60)), "ground_truth": truth}, {"prediction": "", "ground_truth": truth}]
    bare = {"prompt_interface": "bbox_points", "evaluate": {"n_boot": 100}}
    result = medground.evaluate(bare, predictions=_lines(tmp_path, lines))
    assert result.mean("iou") == pytest.approx(0.5)
    assert result.mean("pdice") == pytest.approx(0.5)
    with pytest.raises(InputError, match="holds answers without ids, and they meet samples by id alone"):
        medground.evaluate(recipe(phantoms, limit=2), predictions=_lines(tmp_path, lines))


@pytest.mark.slow
def test_lines_of_a_run_are_predictions(phantoms, plain, tmp_path):
    with pytest.raises(SystemExit) as left:
        main(
            [
                "run",
                str(phantoms / "manifest.jsonl"),
                "segmenter=ellipse",
                "--no-overlays",
                "--out",
                str(tmp_path / "r"),
            ]
        )
    assert left.value.code == 0
    result = medground.evaluate(recipe(phantoms), predictions=tmp_path / "r" / "manifest.jsonl")
    assert result.mean("iou") == plain.mean("iou")


def test_saved_answers_need_no_template(phantoms, plain):
    made = {**recipe(phantoms), "prompt_interface": {"name": "bbox_points", "template": "???"}}
    assert medground.evaluate(made, predictions=plain.folder).mean("iou") == plain.mean("iou")
    with pytest.raises(RecipeError, match=r"prompt_interface\.template must be given"):
        medground.evaluate(made)


@pytest.mark.parametrize("wrong", ["batch_size=0", "n_boot=1", "level=1.0", "seed=-1", "pictures=-1"])
def test_settings_out_of_bounds_are_refused(phantoms, wrong):
    with pytest.raises(RecipeError, match=f"evaluate.{wrong.partition('=')[0]}: "):
        medground.evaluate(recipe(phantoms), f"evaluate.{wrong}")


def test_no_samples_is_an_error(phantoms):
    with pytest.raises(InputError, match="no sample is in the split 'nowhere'"):
        medground.evaluate(recipe(phantoms), "data.split=nowhere")


def _lines(folder, lines):
    path = folder / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_a_store_serves_the_next_evaluation(phantoms):
    store = StageCache()
    first = medground.evaluate(recipe(phantoms), store=store)
    assert store.hits == {"proposals": 0, "completions": 0, "masks": 0}
    medground.evaluate(recipe(phantoms, segmenter="box_fill"), "prompt=box", store=store)
    assert store.hits == {"proposals": 0, "completions": 10, "masks": 0}
    again = medground.evaluate(recipe(phantoms), store=store)
    assert store.hits["masks"] == 30
    assert again.summary == first.summary


@pytest.mark.slow
def test_ceilings_are_above_the_answer_and_baselines_below(phantoms):
    names = ["answer", "perfect_segmenter", "oracle_box", "oracle_points", "oracle_both", "jitter_10", "jitter_40"]
    names += ["whole_box", "centre_box", "constant_box", "category_box"]
    result = medground.evaluate(recipe(phantoms, conditions=names))
    assert list(result.summary.conditions) == names
    assert result.mean("iou", "oracle_box") == 1
    assert 1 > result.mean("iou", "jitter_10") > result.mean("iou", "jitter_40") > 0.2
    assert result.mean("dice_joint", "oracle_both") > result.mean("dice_joint") > result.mean("dice_joint", "whole_box")
    assert result.mean("dice_joint", "perfect_segmenter") > result.mean("dice_joint")
    whole = next(line for line in result.records if line.condition == "whole_box")
    assert whole.answers[0].box == [0, 0, 96, 96]
    constant = [line for line in result.records if line.condition == "constant_box"]
    for line in constant:
        others = [other.target.box for other in constant if other.cluster != line.cluster]
        assert line.answers[0].box == pytest.approx(np.mean(others, axis=0))
    assert {row.condition for row in result.summary.comparisons} == set(names) - {"answer"}


@pytest.mark.slow
def test_ceilings_on_real_images(shared, tmp_path):
    """Whatever the image: the true box outdoes a blind one, and the ellipse gains nothing over itself."""
    rows = [json.loads(line) for line in (shared / "data" / "pairs" / "manifest.jsonl").read_text().splitlines()]
    first = {row["modality"]: row for row in rows if row["promptable"] and row["width"] <= 600}
    assert len(first) >= 5
    lines = []
    for number, row in enumerate(first.values()):
        for part in ("image", "mask"):
            (tmp_path / f"{part}{number}.png").write_bytes((shared / "data" / "pairs" / row[part]).read_bytes())
        files = {part: f"{part}{number}.png" for part in ("image", "mask")}
        labels = {key: row[key] for key in ("modality", "category", "dataset")}
        lines.append({"id": str(number), "question": "What stands out?", **files, **labels})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    conditions = ["answer", "perfect_segmenter", "oracle_box", "jitter_30", "constant_box"]
    result = medground.evaluate(recipe(tmp_path, conditions=conditions))
    dice = {condition: result.mean("dice_joint", condition) for condition in conditions}
    assert dice["oracle_box"] > dice["jitter_30"] > dice["constant_box"]
    assert dice["oracle_box"] > 0.7
    assert result.mean("dice_over_ellipse", "oracle_box") == 0
    assert result.summary.clusters == ClusterCounts(count=len(lines), by={"image": len(lines)})
    assert {row.labels["modality"] for row in result.summary.conditions["answer"].groups["modality"]} == set(first)


@pytest.mark.slow
def test_what_a_segmenter_was_not_trained_for_is_left_out_with_the_reason(phantoms):
    boxes = recipe(phantoms, segmenter="box_fill", conditions=["answer", "oracle_box", "oracle_points"])
    result = medground.evaluate(boxes, "prompt=box")
    assert result.summary.skipped == {"oracle_points": "the segmenter box_fill was not trained for points"}
    assert list(result.summary.conditions) == ["answer", "oracle_box"]
    alone = medground.evaluate({**boxes, "reasoner": None}, "prompt=box")
    assert alone.summary.skipped["answer"] == "the recipe names no reasoner"


@pytest.mark.slow
def test_probes_of_a_reasoner_that_looks_and_reads(phantoms):
    probes = ["blank", "mirrored", "swapped", "paraphrase", "irrelevant", "think_removed"]
    result = medground.evaluate(recipe(phantoms, conditions=["answer", *probes]))
    alike = {name: result.summary.conditions[name].agreement.mean for name in probes[:-1]}
    assert alike["paraphrase"] == 1, "its rules know the same words"
    assert max(alike["blank"], alike["swapped"]) < 0.5 < 1
    questions = {line.condition: line.asked_question for line in result.records}
    assert questions["irrelevant"] == "Which day of the week comes after Monday?"
    assert questions["blank"] is questions["answer"] is None
    assert "cannot go on" in result.summary.skipped["think_removed"]


@pytest.mark.slow
def test_probes_of_a_reasoner_that_does_not_look(phantoms):
    blind = recipe(
        phantoms, reasoner=scripted(answer((10, 10, 60, 60))), conditions=["answer", "blank", "mirrored", "swapped"]
    )
    result = medground.evaluate(blind)
    for name in ("blank", "swapped"):
        assert result.summary.conditions[name].agreement.mean == 1
        assert result.mean("iou", name) == result.mean("iou")
    mirrored = next(line for line in result.records if line.condition == "mirrored")
    assert mirrored.answers[0].box == [36, 10, 86, 60]
    assert mirrored.answers[0].points == [[86, 10], [76, 20]]


PARROT = """
import medground
from medground.frames import pixels
from medground.types import Completion, image_of

class Parrot:
    '''Writes the box its reasoning names.'''
    def frame(self, size):
        return pixels(size)
    def generate(self, batch, sampling):
        return self.go_on(batch, ["<think>%d</think>" % image_of(m).sum() for m in batch], sampling)
    def go_on(self, batch, prefixes, sampling):
        frame = pixels(image_of(batch[0]).shape[:2])
        side = lambda prefix: 20 + sum(map(ord, prefix)) % 50
        return [[Completion(text='%s<answer>{"bbox": [5, 5, %d, 60]}</answer>' % (p, side(p)), frame=frame)] for p in prefixes]

@medground.hookimpl
def register_reasoners(register):
    register("parrot", Parrot)
"""


def test_thinking_is_replaced_where_a_reasoner_goes_on_from_it(phantoms, site, install):
    install(site, "medground-parrot", {"reasoner.parrot": "medground_parrot"}, PARROT)
    discovery._scan.cache_clear()
    loading._load.cache_clear()
    loading._manager.cache_clear()
    made = recipe(phantoms, reasoner="parrot", conditions=["answer", "think_removed", "think_shuffled"])
    result = medground.evaluate({**made, "prompt_interface": "bbox"})
    by_condition = {
        condition: [each for each in result.records if each.condition == condition]
        for condition in result.summary.conditions
    }
    assert all(line.answers[0].think == "" for line in by_condition["think_removed"])
    thoughts = {line.id: line.answers[0].think for line in by_condition["answer"]}
    for line in by_condition["think_shuffled"]:
        own = line.answers[0].think
        assert own != thoughts[line.id]
        assert own in thoughts.values()
    assert result.summary.conditions["think_removed"].agreement.mean < 1


def test_beginning_of_a_completion():
    text = "<think>\nleft\n</think>\n<answer>{}</answer>"
    assert beginning(text, "\nleft\n", "right") == "<think>right</think>"
    assert beginning(text, "left", "right") == "<think>\nright</think>"
    assert beginning(text, None, "x") is beginning(text, "", "x") is beginning("<think>left", "left", "x") is None


def test_conditions_that_cannot_be_evaluated_together_are_refused():
    for names, message in (
        (["anwser"], "did you mean 'answer'"),
        (["blank", "blank"], "twice"),
        (["perfect_segmenter", "answer"], "starts from the answers"),
        (["jitter_70"], "moves edges by 70 %"),
        ([], "is empty"),
    ):
        with pytest.raises(RecipeError, match=message):
            conditions_of(names)
    assert [condition.name for condition in conditions_of(None)] == ["answer"]


def test_a_perfect_segmenter_takes_what_the_prompt_leaves_it():
    truth = np.zeros((10, 10), bool)
    truth[2:6, 2:6] = True
    boxed = perfect_mask(SpatialPrompt(box=Box(4, 0, 10, 10), points=(Point(9, 9),)), truth).data
    assert boxed.sum() == 8
    assert (boxed & ~truth).sum() == 0
    hit, missed = (perfect_mask(SpatialPrompt(points=(Point(x, 3.5),)), truth).data for x in (3.5, 8.5))
    assert (hit == truth).all()
    assert not missed.any()
    behind = SpatialPrompt(points=(Point(3.5, 3.5), Point(9, 9)), labels=(0, 1))
    assert not perfect_mask(behind, truth).data.any()


def test_the_answer_to_a_mirrored_image_is_mirrored_back():
    region = Region(box=Box(1, 2, 4, 5), points=(Point(1.5, 2.5),))
    back = CONDITIONS["mirrored"].restore
    assert back(region, (10, 20)) == Region(box=Box(16, 2, 19, 5), points=(Point(18.5, 2.5),))
    assert back(back(region, (10, 20)), (10, 20)) == region


def sample(labels=(), image=None, name="s"):
    image = np.zeros((4, 4, 3), np.uint8) if image is None else image
    return Sample(
        query=Query(image=image, question="?", id=name),
        target=Target(regions=(Region(box=Box(0, 0, 2, 2), points=()),)),
        labels=dict(labels),
    )


def test_clusters_are_patients_then_volumes_then_images_and_their_names_are_hashes():
    patient = sample({"patient": "Doe^Jane", "volume": "v1"})
    assert cluster_of(patient)[0] == "patient"
    assert cluster_of(sample({"volume": "v1"}))[0] == "volume"
    kind, name = cluster_of(sample())
    assert kind == "image"
    assert name == cluster_of(sample(name="other"))[1]
    assert name != cluster_of(sample(image=np.ones((4, 4, 3), np.uint8)))[1]
    assert cluster_of(patient)[1] == cluster_of(sample({"patient": "Doe^Jane"}, name="other"))[1]
    assert cluster_of(sample({"patient": "1", "dataset": "a"})) != cluster_of(sample({"patient": "1", "dataset": "b"}))
    assert "Doe" not in str(cluster_of(patient))
    assert cluster_of(sample({"site": "x"}), "site")[0] == "site"
    with pytest.raises(InputError, match="no label 'site'"):
        cluster_of(sample(), "site")


def test_an_oracle_gives_no_region_for_a_truth_without_points():
    assert CONDITIONS["oracle_points"].regions(sample(), EvalContext(seed=0)) == ()


def test_run_length_round_trip():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 5), (40, 300)):
        for share in (0, 0.3, 1):
            mask = rng.random(shape) < share
            assert (decode_rle(encode_rle(mask)) == mask).all()


def test_the_released_aggregation_by_hand():
    rows = [
        {
            "supercategory": "lung",
            "category": "left lung",
            "think": "a",
            "iou": 0.3333,
            "pdice": 1.2,
            "dice_joint": 0.5,
        },
        {
            "supercategory": "lung",
            "category": "left lung",
            "think": "error",
            "iou": 0.0,
            "pdice": 0.0,
            "dice_joint": 0.0,
        },
        {"supercategory": "Brain", "category": "tumour", "think": None, "iou": 0.6667, "pdice": 2.0, "dice_joint": 1.0},
    ]
    assert statistics(rows) == {
        "mean_iou": 0.3333,
        "mean_pdice": 1.0667,
        "mean_dice_points": 0,
        "mean_dice_bbox": 0,
        "mean_dice_joint": 0.5,
        "valid_samples": 2,
        "failed_samples": 1,
        "total_samples": 3,
        "per_super": {
            "Brain": {**_group(0.6667, 2.0, 1.0, 1), "categories": {"tumour": _group(0.6667, 2.0, 1.0, 1)}},
            "lung": {**_group(0.1666, 0.6, 0.25, 2), "categories": {"left lung": _group(0.1666, 0.6, 0.25, 2)}},
        },
    }
    assert list(statistics(rows)["per_super"]) == ["Brain", "lung"], "sorted without regard to case"


def _group(iou, pdice, joint, count):
    zero = {"mean_dice_points": 0, "mean_dice_bbox": 0}
    return {"mean_iou": iou, "mean_pdice": pdice, **zero, "mean_dice_joint": joint, "count": count}


@pytest.mark.slow
def test_released_numbers_of_the_oracle_cases_aggregate_as_released(tmp_path):
    path = Path(__file__).with_name("data") / "released_rewards.jsonl"
    cases = [json.loads(line) for line in path.read_text().splitlines()]
    cases = [case for case in cases if not any(math.isnan(case["eval"].get(key, 0)) for key in ("iou", "pdice"))]
    lines = [
        {
            "prediction": case["prediction"],
            "ground_truth": {key: case["ground_truth"][key] for key in ("bbox_2d", "point_2d")},
            "labels": {"supercategory": f"s{number % 3}", "category": f"c{number % 7}"},
        }
        for number, case in enumerate(cases)
    ]
    compat = {
        "prompt_interface": {"name": "bbox_points", "parser": "released_eval"},
        "evaluate": {"protocol": "released", "n_boot": 50},
    }
    medground.evaluate(compat, predictions=_lines(tmp_path, lines), out=tmp_path / "out")
    result = json.loads((tmp_path / "out" / "statistics.json").read_text())
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    wanted = {key: [round(case["eval"].get(key, 0.0), 4) for case in cases] for key in ("iou", "pdice")}
    assert [[row["iou"], row["pdice"]] for row in results] == [
        list(pair) for pair in zip(*wanted.values(), strict=True)
    ]
    failed = sum("raises" in case["eval"] for case in cases)
    assert failed > 20
    assert (result["failed_samples"], result["total_samples"]) == (failed, len(cases))
    assert result["mean_iou"] == round(sum(wanted["iou"]) / len(cases), 4)
    assert result["mean_pdice"] == round(sum(wanted["pdice"]) / len(cases), 4)
    part = [value for number, value in enumerate(wanted["iou"]) if number % 3 == 1 and number % 7 == 2]
    cell = result["per_super"]["s1"]["categories"]["c2"]
    assert (cell["mean_iou"], cell["count"]) == (round(sum(part) / len(part), 4), len(part))


@pytest.mark.slow
def test_released_dice_are_made_of_whole_pixels(phantoms, tmp_path):
    compat = recipe(phantoms, protocol="released", limit=3)
    compat["prompt_interface"] = {"name": "bbox_points", "parser": "released_eval"}
    result = medground.evaluate(compat, out=tmp_path / "out")
    samples = open_dataset(phantoms)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    for row, line, sample in zip(rows, result.records, samples[:3], strict=True):
        for key, part in (("dice_bbox", "box"), ("dice_points", "points"), ("dice_joint", "joint")):
            mask, truth = decode_rle(line.answers[0].masks[part].rle), sample.target.mask
            assert row[key] == round(2 * int((mask & truth).sum()) / (mask.sum() + truth.sum() + 1e-6), 4)


@pytest.mark.slow
def test_the_published_table_is_measured_on_published_numbers(phantoms, tmp_path):
    """Answers that repeat the table: perfect by the released rules, one pixel short by the corrected ones."""
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    from medground.data.export import export

    export(phantoms, tmp_path / "test.parquet")
    table = open_dataset(tmp_path / "test.parquet", reader="umrg")
    answered = []
    for each in table:
        box, points = (each.target.published[key] for key in ("bbox_2d", "point_2d"))
        answered.append({"id": each.query.id, "prediction": answer(box, points).replace('"', "'")})
    compat = {
        "prompt_interface": {
            "name": "bbox_points",
            "style": "single_quoted",
            "template": "???",
            "parser": "released_eval",
        },
        "segmenter": "ellipse",
        "data": {"path": str(tmp_path / "test.parquet"), "reader": "umrg"},
        "evaluate": {"protocol": "released", "n_boot": 50},
    }
    result = medground.evaluate(compat, predictions=_lines(tmp_path, answered), out=tmp_path / "out")
    means = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert (means["mean_iou"], means["mean_pdice"], means["failed_samples"]) == (1.0, 2.0, 0)
    assert result.mean("pdice_compat") == pytest.approx(2, abs=1e-3)
    assert 0.7 < result.mean("iou") < 1
    assert result.summary.unusable == []


def test_a_recipe_is_not_measured_on_what_it_was_trained_on(phantoms):
    trained = {**recipe(phantoms, limit=2), "grpo": {"max_steps": 1}}
    trained["data"]["split"] = "train"
    with pytest.raises(RecipeError, match=r"trains on data\.split=train"):
        medground.evaluate(trained)
    assert medground.evaluate(trained, "evaluate.split=train").summary.split == "train"


def test_the_baseline_must_be_of_the_same_samples(plain, phantoms, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        medground.evaluate(recipe(phantoms), baseline=tmp_path)
    text = (plain.folder / "samples.jsonl").read_text()
    (tmp_path / "samples.jsonl").write_text(text.replace('"box": [', '"box": [0.5, ', 1))
    with pytest.raises(InputError, match="another target"):
        medground.evaluate(recipe(phantoms), baseline=tmp_path)


@pytest.mark.slow
def test_eval_prints_a_summary_and_its_folder_is_a_recipe(phantoms, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["eval", "eval/baselines", f"data.path={phantoms}", "segmenter=ellipse", "evaluate.limit=3",
              "evaluate.n_boot=50", "--out", str(tmp_path / "run"), "--store", str(tmp_path / "store"), "--json"])  # fmt: skip
    assert left.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["samples"] == 3
    assert set(printed["conditions"]) == {"answer", "whole_box", "centre_box", "constant_box", "category_box"}
    assert (tmp_path / "store" / "completions.jsonl").exists()
    with pytest.raises(SystemExit) as left:
        main(["eval", str(tmp_path / "run"), "--out", str(tmp_path / "again")])
    assert left.value.code == 0, "a run's folder is a recipe"
    assert "see" in capsys.readouterr().err


@pytest.mark.slow
def test_saved_answers_keep_their_frames(phantoms, tmp_path):
    permille = {"name": "toy", "frame": "permille"}
    first = medground.evaluate(recipe(phantoms, reasoner=permille, limit=2), out=tmp_path / "first")
    again = medground.evaluate(recipe(phantoms, limit=2), predictions=tmp_path / "first")
    assert again.records[0].answers[0].frame == {"kind": "permille", "size": [96, 96], "order": "xy"}
    assert Frame(**first.records[0].answers[0].frame).kind == "permille"
    assert again.mean("iou") == first.mean("iou")
