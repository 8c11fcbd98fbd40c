"""Sweeps: all trials are checked first, stages are shared, a failing trial stops no other, a killed sweep resumes."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from medground_toy import phantoms

from medground import open_dataset
from medground.errors import InputError, Interrupted, PluginError, RecipeError, RunError
from medground.evaluation.evaluate import evaluate
from medground.evaluation.results_file import AnswerRecord, SampleRecord, TargetRecord
from medground.recipe import resolve
from medground.registry import factory
from medground.registry.description import describe
from medground.registry.discovery import components
from medground.sweeps.pictures import side_by_side
from medground.sweeps.plan import plan
from medground.sweeps.published import published_tables
from medground.sweeps.results import pool
from medground.sweeps.run import sweep
from medground.sweeps.tables import as_csv, as_latex, as_markdown
from medground.types import Mask, Query, Sample, Target

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"n_boot": 50, "pictures": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write(folder, phantoms.samples(4, seed=1, size=(64, 64)))
    return folder


@pytest.fixture
def swap(data):
    """Segmenters over one reasoner; one variant is impossible."""
    return {
        "reasoner": "toy",
        "prompt_interface": "bbox_points",
        "data": {"path": str(data)},
        "evaluate": dict(SMALL),
        "sweep": {"metrics": ["dice_joint"]},
        "variants": {
            "ellipse": {"segmenter": "ellipse"},
            "filled": {"segmenter": "box_fill", "prompt": "box"},
            "clicked": {"segmenter": "box_fill", "prompt": "points"},
        },
    }


class WholeImage:
    """A segmenter from Python: its mask is the whole image."""

    accepts = frozenset({"box", "points"})

    def segment(self, image, prompts):
        return [Mask(data=np.ones(image.shape[:2], bool), score=1.0) for _ in prompts]


class Scored:
    """A reward term from Python."""

    def __init__(self, needs_mask):
        self.needs_mask = needs_mask

    def __call__(self, rollout):
        return 1.0


@pytest.mark.slow
def test_published_rows_stand_beside_those_of_the_sweep_and_are_labelled(swap, tmp_path):
    summary = sweep({**swap, "evaluate": {**SMALL, "published": ["medreasoner"]}}, out=tmp_path / "board").summary
    (info, table) = published_tables(summary)[0]
    rows = {row[0]: row[1:] for row in table.rows}
    column = table.columns.index("dice_joint") - 1
    mean = next(row.metrics["dice_joint"].mean for row in summary.rows if row.variant == "ellipse")
    assert rows["here: ellipse"][column] == pytest.approx(100 * mean, abs=0.006)
    assert rows["here: ellipse"][table.columns.index("iou_compat") - 1] is None  # not measured by that definition
    assert rows["MedReasoner 7B"][column] == 37.78
    page = (tmp_path / "board" / "report.html").read_text()
    assert "As published, not measured here" in page and "MedReasoner 7B" in page and info.source.split(",")[0] in page


class TestPlan:
    def test_an_impossible_trial_is_skipped_with_a_reason(self, swap):
        checked = plan(swap)
        assert [trial.name for trial in checked.possible] == ["ellipse", "filled"]
        assert checked.skipped == {"clicked": "segmenter 'box_fill' was not trained for points"}
        assert plan(swap, "variants.cl*.allow_untrained=true").skipped == {}

    @pytest.mark.slow
    def test_asm_swap_has_every_expert_by_every_selection_of_the_prompts_it_was_trained_for(self, data):
        overrides = (f"data.path={data}", "data.split=null", "reasoner.checkpoint=x")
        checked = plan("sweep/asm_swap", *overrides)
        rows = {
            trial.name: (trial.recipe.data["segmenter"]["name"], tuple(trial.recipe.data["prompt"]))
            for trial in checked.trials
        }
        experts = [one.name for one in components("segmenter") if describe(factory("segmenter", one.name)).published]
        trained = {("ellipse", ("box",))}
        for name in {*experts} - {"toy_sam"}:
            kinds = sorted(factory("segmenter", name).accepts - {"negative_points"})
            trained |= {(name, some) for size in (1, 2) for some in combinations(kinds, size)}
        possible = {rows[trial.name] for trial in checked.possible}
        assert {(name, tuple(sorted(kinds))) for name, kinds in possible} == trained and len(possible) == 33
        assert sorted(checked.skipped) == ["medsam_both", "medsam_points"]
        assert all("'medsam' was not trained for points" in why for why in checked.skipped.values())

    def test_asm_swap_compat_has_the_published_nine(self, data):
        assert (
            len(plan("sweep/asm_swap_compat", f"data.path={data}", "data.split=null", "reasoner.checkpoint=x").possible)
            == 9
        )

    def test_an_argument_for_a_row_goes_to_the_component_that_the_row_or_the_recipe_names(self, swap):
        swap["variants"] = {"grown": {"segmenter": "region_growing"}, "other": {"prompt": "box"}}
        names = {"segmenter": "toy_sam"}
        small = "variants.grown.segmenter.side=64", "variants.other.segmenter.decode_batch=3"
        grown, other = (trial.recipe.data["segmenter"] for trial in plan(swap | names, *small).trials)
        assert grown == {"name": "region_growing", "side": 64}
        assert other == {"name": "toy_sam", "decode_batch": 3}
        with pytest.raises(RecipeError, match="segmenter has no name"):
            plan(swap, *small)

    @pytest.mark.parametrize(
        ("override", "error", "message"),
        [
            ("variants.filled.segmenter=nobody", PluginError, "nobody"),
            ("variants.filled.data.path=nowhere", InputError, "nowhere"),
            ("variants.filed.prompt=box", RecipeError, "filed"),
            ("sweep.baseline=nobody", RecipeError, "nobody"),
            ("sweep.metrics=[ioo]", RecipeError, "ioo"),
            ("sweep.seeds=3", RecipeError, "seeds"),
            ("sweep.datasets={a: 3}", RecipeError, "sweep.datasets.a"),
            ("evaluate.only={modality: [nothing]}", InputError, "nothing"),
            ("sampling.temperature=???", RecipeError, "must be given"),
        ],
    )
    def test_a_trial_that_cannot_be_used_stops_the_sweep_before_it_starts(
        self, swap, tmp_path, override, error, message
    ):
        with pytest.raises(error, match=message):
            sweep(swap, override, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_seeds_multiply_only_variants_that_sample(self, swap):
        names = [
            trial.name for trial in plan(swap, "sweep.seeds=[3,5]", "variants.filled.sampling.temperature=1").possible
        ]
        assert names == ["ellipse", "filled.seed3", "filled.seed5"]

    @pytest.mark.parametrize(("needs_mask", "trainings"), [(False, 1), (True, 2)])
    def test_trials_share_a_training_unless_a_term_from_python_sees_their_masks(self, data, needs_mask, trainings):
        recipe = {
            "reasoner": "toy_vlm",
            "prompt_interface": "bbox",
            "data": {"path": str(data)},
            "grpo": {},
            "evaluate": {"split": "train"},
            "variants": {"ellipse": {"segmenter": "ellipse"}, "filled": {"segmenter": "box_fill"}},
        }
        assert len(plan(recipe, rewards={"mine": Scored(needs_mask)}).trainings) == trainings

    def test_datasets_change_what_is_measured_and_not_what_is_trained(self, data):
        checked = plan(
            {
                "reasoner": "toy_vlm",
                "prompt_interface": "bbox",
                "data": {"path": str(data)},
                "sft": {},
                "evaluate": {"split": "train"},
                "sweep": {"seeds": [1, 2], "datasets": {"here": str(data), "first": {"evaluate": {"limit": 1}}}},
                "variants": {"box": {}, "other": {"segmenter": "ellipse"}, "slow": {"sft.learning_rate": 1e-6}},
            }
        )
        assert len(checked.trials) == 3 * 2 * 2
        assert [trial.trained for trial in checked.trainings.values()] == [
            "box.seed1",
            "box.seed2",
            "slow.seed1",
            "slow.seed2",
        ]

    def test_a_training_is_shared_with_another_segmenter_only_where_no_term_sees_masks(self, data):
        base = {
            "reasoner": "toy_vlm",
            "prompt_interface": "bbox",
            "segmenter": "ellipse",
            "data": {"path": str(data)},
            "grpo": {},
            "evaluate": {"split": "train"},
            "variants": {"a": {}, "b": {"segmenter": "threshold"}},
        }
        assert len(plan({**base, "rewards": {"bbox_iou": 1}}).trainings) == 1
        assert len(plan({**base, "rewards": {"mask_dice": 1}}).trainings) == 2


def _record(name, value):
    return SampleRecord(
        condition="answer",
        id=name,
        question="?",
        size=[8, 8],
        labels={},
        cluster="c",
        target=TargetRecord(box=None, points=[], share=0.5, area=None),
        values={} if value is None else {"iou": value},
        answers=[],
    )


def test_a_samples_value_is_the_mean_over_the_seeds_that_have_one():
    pooled = pool([[_record("a", 0.2), _record("b", 1.0)], [_record("a", 0.4), _record("b", None)]])
    assert [record.values["iou"] for record in pooled] == pytest.approx([0.3, 1.0])


def _drawn(value, name):
    answer = AnswerRecord(
        fault=None, cause="", box=[1, 1, 5, 5], points=[], masks={}, values={}, undefined=[], excluded=[], details={}
    )
    return replace(_record(name, value), answers=[answer])


def test_the_samples_side_by_side_are_the_ones_that_differ_most_and_best_typical_worst():
    scores = {
        "a": {"1": 0.9, "2": 0.5, "3": 0.4, "4": 0.4, "5": 0.0},
        "b": {"1": 0.8, "2": 0.1, "3": 0.3, "4": 0.4, "5": 0.0},
    }
    by_variant = {variant: [_drawn(value, name) for name, value in own.items()] for variant, own in scores.items()}
    image = np.zeros((8, 8, 3), np.uint8)

    def read(name):
        return Sample(query=Query(image=image, question="?", id=name), target=Target(regions=()))

    shown = side_by_side("", by_variant, read, 6)
    assert [(image.title, image.record.id) for image in shown.images] == [
        ("Where the variants differ most: iou 0.100 to 0.500", "2"),
        ("Best: mean iou 0.850", "1"),
        ("Typical (median): mean iou 0.350", "3"),
        ("Worst: mean iou 0.000", "5"),
    ]  # fmt: skip
    assert [list(image.pictures) for image in shown.images] == [["a", "b"]] * 4
    assert [shown.images[0].pictures[variant].score for variant in "ab"] == ["iou 0.500", "iou 0.100"]
    assert [image.record.id for image in side_by_side("", by_variant, read, 2).images] == ["2", "1"]
    assert side_by_side("", by_variant, read, 0) is None
    assert side_by_side("", {**by_variant, "c": [_drawn(None, "1")]}, read, 6) is None, "no metric that all have"
    other = {**by_variant, "c": [_drawn(0.5, "6")]}
    assert side_by_side("", other, read, 6) is None, "no sample that all have"
    two = {variant: [record for record in own if record.id in "12"] for variant, own in by_variant.items()}
    assert [image.title for image in side_by_side("", two, read, 6).images] == [
        "Where the variants differ most: iou 0.100 to 0.500; Worst: mean iou 0.300",
        "Best: mean iou 0.850",
    ]
    assert len(side_by_side("", {"a": by_variant["a"]}, read, 6).images) == 3, "one variant differs from none"


class TestRun:
    @pytest.mark.slow
    def test_the_reasoner_is_asked_once_and_the_table_is_whole(self, swap, tmp_path):
        done = sweep(swap, out=tmp_path)
        questions = {name: trial.questions for name, trial in done.summary.trials.items()}
        assert questions == {"ellipse": done.summary.rows[0].samples, "filled": 0}
        alone = evaluate(swap, "segmenter=ellipse")
        row = done.summary.rows[0].metrics["dice_joint"]
        assert (row.mean, row.low) == (
            alone.mean("dice_joint"),
            alone.summary.conditions["answer"].metrics["dice_joint"].low,
        )
        (test,) = done.summary.comparisons
        assert (test.variant, test.against, test.p_holm) == ("filled", "ellipse", test.p)
        assert test.difference == pytest.approx(done.summary.rows[1].metrics["dice_joint"].mean - row.mean)
        assert "clicked | segmenter 'box_fill' was not trained for points" in (tmp_path / "table.md").read_text()
        rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
        assert float(rows[0]["mean"]) == row.mean and rows[-1]["note"]
        page = (tmp_path / "report.html").read_text()
        assert "was not trained for points" in page and "://" not in page.replace("http://www.w3.org/2000/svg", "")
        with pytest.raises(RunError, match="holds a sweep already"):
            sweep(swap, out=tmp_path)

    @pytest.mark.slow
    def test_the_page_shows_the_same_images_under_each_variant(self, swap, tmp_path):
        sweep(swap, "evaluate.pictures=2", out=tmp_path / "two")
        page = (tmp_path / "two" / "report.html").read_text()
        bold = re.findall("<figcaption>\\s*<p><b>(.*?)</b></p><p>(.*?)</p>", page)
        assert [variant for variant, _ in bold] == ["ellipse", "filled"] * 2
        assert page.index("<img") < page.index("<table")
        assert page.count('<ul class="legend">') == 1
        sweep(swap, out=tmp_path / "none")
        assert "<img" not in (tmp_path / "none" / "report.html").read_text()

    @pytest.mark.slow
    def test_the_floor_stands_beside_the_dice_and_is_not_tested(self, swap, tmp_path):
        summary = sweep(swap, out=tmp_path).summary
        assert summary.measured == ["dice_joint", "dice_ellipse"]
        assert {test.metric for test in summary.comparisons} == {"dice_joint"}
        ellipse, _ = summary.rows
        assert ellipse.metrics["dice_ellipse"].mean == ellipse.metrics["dice_joint"].mean
        assert "| variant | seeds | samples | dice_joint | dice_ellipse |" in as_markdown(summary)
        assert ">dice_ellipse</button>" in (tmp_path / "report.html").read_text(), "also where no row differs"

    @pytest.mark.slow
    def test_objects_take_part_in_every_trial_and_a_reasoner_cannot(self, swap, data, tmp_path):
        del swap["variants"]["clicked"], swap["variants"]["filled"], swap["data"]
        swap["variants"] |= {"mine": {}, "mine_boxed": {"prompt": "box"}}
        given = {"segmenter": WholeImage(), "data": list(open_dataset(data))}
        done = sweep(swap, out=tmp_path, **given)
        means = {row.variant: row.metrics["dice_joint"].mean for row in done.summary.rows}
        assert means == dict.fromkeys(means, evaluate(swap, **given).mean("dice_joint"))
        assert list(means) == ["ellipse", "mine", "mine_boxed"]
        assert sweep(swap, out=tmp_path, resume=True, **given).before == 3
        with pytest.raises(RunError, match="holds another ellipse"):
            sweep(swap, out=tmp_path, resume=True, data=given["data"])
        with pytest.raises(RecipeError, match="the reasoner of a sweep is an object"):
            sweep(swap, out=tmp_path / "other", reasoner=object(), **given)

    @pytest.mark.slow
    def test_a_failing_trial_stops_no_other_and_is_tried_again(self, swap, tmp_path, monkeypatch):
        swap["variants"]["odd"] = {"segmenter": "ellipse", "evaluate.cluster": "nothing"}
        done = sweep(swap, out=tmp_path)
        assert list(done.summary.failed) == ["odd"] and "nothing" in done.summary.failed["odd"]
        assert list(done.summary.trials) == ["ellipse", "filled"]
        again = sweep(swap, out=tmp_path, resume=True)
        assert (again.before, list(again.summary.failed)) == (2, ["odd"])
        assert again.summary.rows == done.summary.rows

    @pytest.mark.slow
    def test_a_stopped_sweep_resumes_without_asking_the_reasoner_again(self, swap, tmp_path):
        whole = sweep(swap, out=tmp_path / "whole").summary
        turns = iter([False] * 4 + [True] * 99)
        with pytest.raises(Interrupted):
            sweep(swap, "evaluate.batch_size=1", out=tmp_path / "cut", stopped=lambda: next(turns))
        done = sweep(swap, "evaluate.batch_size=1", out=tmp_path / "cut", resume=True)
        assert done.summary.rows == whole.rows and done.summary.comparisons == whole.comparisons
        assert sum(trial.questions for trial in done.summary.trials.values()) == whole.rows[0].samples

    @pytest.mark.slow
    def test_another_sweep_is_refused_and_a_trial_may_be_added(self, swap, tmp_path):
        sweep(swap, out=tmp_path)
        with pytest.raises(RunError, match="holds another"):
            sweep(swap, "evaluate.limit=1", out=tmp_path, resume=True)
        swap["variants"]["threshold"] = {"segmenter": "threshold"}
        done = sweep(swap, out=tmp_path, resume=True)
        assert done.before == 2 and done.summary.trials["threshold"].questions == 0

    @pytest.mark.slow
    def test_several_seeds_and_datasets_and_parts(self, swap, data, tmp_path):
        swap["variants"] = {
            "warm": {"segmenter": "ellipse", "sampling.temperature": 1.0},
            "cold": {"segmenter": "ellipse"},
        }
        swap["sweep"] = {
            "seeds": [1, 2, 3],
            "by": "size",
            "datasets": {"all": str(data), "few": {"data": {"path": str(data)}, "evaluate": {"limit": 2}}},
            "metrics": ["iou", "dice_joint"],
        }
        summary = sweep(swap, out=tmp_path).summary
        assert [(row.variant, row.dataset, len(row.seeds)) for row in summary.rows] == [
            ("warm", "all", 3), ("warm", "few", 3), ("cold", "all", 1), ("cold", "few", 1),
        ]  # fmt: skip
        warm = summary.rows[0].metrics["iou"]
        assert len(warm.by_seed) == 3 and warm.sd is not None
        assert sum(part.samples for part in summary.rows[0].groups.values()) == summary.rows[0].samples
        assert "| warm | all | 3 |" in as_markdown(summary)
        assert as_latex(summary).count("\\\\") == 5 and "dice\\_joint" in as_latex(summary)
        assert len(as_csv(summary).splitlines()) > 1 + 4 * 2


def _medground(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "medground", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


TOY = ("reasoner=toy_vlm", "segmenter=toy_sam", "sampling.max_completion_length=4", "evaluate.limit=2",
       "evaluate.n_boot=20", "evaluate.pictures=0", "data.split=null", "data.limit=2")  # fmt: skip
GRPO = ("grpo.max_steps=2", "grpo.num_generations=2", "grpo.train_batch_size=1", "grpo.mini_batch_size=1",
        "grpo.max_completion_length=4", "grpo.save_every=1", "sweep.seeds=null", "evaluate.split=train")  # fmt: skip
SFT = ("sft.max_steps=2", "sft.train_batch_size=1")
SWAP = [f"variants.{name}_*.segmenter={ours}" for name, ours in
        (("medsam", "box_fill"), ("sammed2d", "toy_sam"), ("medsam2", "ellipse"))]  # fmt: skip
EXPERTS = [f"variants.{name}.segmenter={ours}" for name, ours in
           (("sam_*", "toy_sam"), ("sam2_*", "toy_sam"), ("sam3_tracker_*", "toy_sam"), ("edgetam_*", "toy_sam"),
            ("*_text*", "tones"), ("*_exemplars", "tones"))]  # fmt: skip


def _rows(glob, overrides):
    """Overrides for the rows of a recipe that fit."""
    return [f"variants.{glob}.{override}" for override in overrides]


def _with_parts(label, value, other):
    """The parts of `sweep/ood` by other names."""
    part, second = f"{{{label}: [{value}]}}", f"{{{label}: [{other}]}}"
    return [
        f"variants.*without_histology.data.leave_out={part}",
        f"variants.*without_ultrasound.data.leave_out={second}",
        f"sweep.datasets.histology.evaluate.only={part}",
        f"sweep.datasets.ultrasound.evaluate.only={second}",
        f"sweep.datasets.rest.evaluate.leave_out={{{label}: [{value}, {other}]}}",
    ]


RECIPES = {
    "asm_swap": ([*SWAP, *EXPERTS, *TOY[:1], *TOY[2:]], 33),
    "asm_swap_compat": ([*SWAP, *TOY[:1], *TOY[2:]], 9),
    "reward_ablation": ([*TOY, *GRPO], 13),
    "reward_sensitivity": ([*TOY, *GRPO], 17),
    "prompt_ablation": (TOY, 8),
    "leaderboard": ([*TOY, "prompt_interface=bbox", *_rows("*", ["reasoner=toy_vlm"])], 7),
    "base_model": ([*TOY, *GRPO[-2:], *_rows("*_vl", GRPO[:6]), *_rows("lingshu", GRPO[:6])], 6),
    "sft_vs_rl": ([*TOY, *GRPO[-2:], *_rows("rl", GRPO[:6]), *_rows("sft*", SFT)], 4),
    "ood": ([*TOY, *GRPO[-2:], *_rows("everything", GRPO[:6]), *_rows("without*", GRPO[:6]),
             *_rows("sft*", SFT), *_with_parts("modality", "CT", "MRI")], 21),
    "histology": ([*TOY[:1], *TOY[2:], "evaluate.only={supercategory: [abnormality]}", *SWAP], 7),
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    phantoms.write(folder, phantoms.samples(24, seed=1, size=(64, 64)))
    return folder


def test_every_sweep_recipe_has_a_toy_run():
    assert sorted(RECIPES) == sorted(path.stem for path in (ROOT / "recipes" / "sweep").glob("*.yaml"))


LONG = ("reward_ablation", "reward_sensitivity")  # 13 and 17 trainings


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.soak] if n in LONG else []) for n in RECIPES])
def test_a_recipe_runs_at_the_scale_of_a_toy_by_overrides_alone(name, drawn, tmp_path):
    overrides, trials = RECIPES[name]
    done = sweep(f"sweep/{name}", f"data.path={drawn}", *overrides, out=tmp_path)
    assert done.summary.failed == {}
    assert len(done.summary.trials) == trials
    assert len(done.summary.skipped) == {"asm_swap": 2}.get(name, 0)
    assert all((tmp_path / file).stat().st_size for file in ("report.html", "table.md", "table.tex", "table.csv"))


@pytest.mark.slow
def test_a_sweep_killed_in_training_and_evaluation_resumes_to_the_same_numbers(drawn, tmp_path):
    recipe = tmp_path / "trial.yaml"
    recipe.write_text(
        "extends: [train/soft]\nreasoner: toy_vlm\nsegmenter: ellipse\nevaluate: {split: train, n_boot: 20, pictures: 0}\n"
        "variants:\n  untrained: {grpo: null}\n  one: {}\n  two: {segmenter: box_fill, prompt: box}\n"
    )
    given = ("sweep", recipe, f"data.path={drawn}", *TOY[2:4], "evaluate.batch_size=1", *TOY[6:], *GRPO[-2:],
             *_rows("one", GRPO[:6]), *_rows("two", GRPO[:6]))  # fmt: skip
    assert _medground(*given, "--out", tmp_path / "whole").returncode == 0
    cut = tmp_path / "cut"
    assert _medground(*given, "--out", cut, MEDGROUND_FAULT="eval.mid:kill:2").returncode == -9
    assert _medground(*given, "--out", cut, "--resume", MEDGROUND_FAULT="save.after_rename:kill:1").returncode == -9
    assert _medground(*given, "--out", cut, "--resume", MEDGROUND_FAULT="eval.mid:term:1").returncode == 5
    last = _medground(*given, "--out", cut, "--resume", "--json")
    assert last.returncode == 0, last.stderr
    one, other = (json.loads((folder / "sweep.json").read_text()) for folder in (tmp_path / "whole", cut))
    assert one["rows"] == other["rows"] and one["comparisons"] == other["comparisons"]
    assert list(other["trainings"]) == ["one"]
    assert json.loads(last.stdout)["rows"] == other["rows"]


@pytest.mark.slow
def test_the_command_lists_trials_and_fails_if_one_failed(swap, tmp_path):
    swap["variants"]["odd"] = {"segmenter": "ellipse", "evaluate.cluster": "nothing"}
    recipe = tmp_path / "swap.yaml"
    recipe.write_text(json.dumps(swap).replace("{", "{ "))
    listed = _medground("sweep", recipe, "--dry-run")
    assert listed.returncode == 0 and "clicked" in listed.stdout and "3 of 4 trials can be done" in listed.stderr
    ran = _medground("sweep", recipe, "--out", tmp_path / "out")
    assert ran.returncode == 1 and "1 trials failed, the first: odd" in ran.stderr
    assert "| ellipse | 1 |" in ran.stderr
    assert resolve(str(tmp_path / "out" / "trials" / "ellipse")).component("segmenter") == ("ellipse", {})
    assert _medground("sweep", recipe).returncode == 2
