"""Propose and select: what a segmenter proposes, how a pipeline asks for a choice, and what is measured of it."""

import json
from dataclasses import replace

import numpy as np
import pytest

import medground
from medground.errors import RecipeError, RunError, SegmenterError
from medground.evaluation.candidates import candidate_metrics
from medground.geometry import Box
from medground.pipeline.cache import StageCache
from medground.pipeline.describe import describe
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.proposals import with_candidates
from medground.recipe import InvalidRecipe, check, find_problems, resolve
from medground.recipe.explain import explain
from medground.recipe.schema import ProposalsConfig
from medground.segmenters.proposals import distinct, grid, point_prompts, propose
from medground.types import Completion, Fault, Grounding, Mask, Query, Region, Rollout, Sample, Target

SIZE = (40, 60)
CHOOSES = {"prompt_interface": {"name": "choose", "least": 0}, "proposer": "grid", "segmenter": "squares"}


def square(x: int, y: int, side: int = 10, score: float = 0.5, size: tuple[int, int] = SIZE) -> Mask:
    data = np.zeros(size, bool)
    data[y : y + side, x : x + side] = True
    return Mask(data=data, score=score)


LEFT, RIGHT, LOW = square(5, 5, score=0.6), square(40, 5, score=0.9), square(20, 25, score=0.8)


class Squares:
    """Finds the square that is nearest to a point; counts its calls, and fails on black images."""

    accepts = frozenset({"box", "points"})

    def __init__(self, masks=(LEFT, RIGHT, LOW), fault: type[Exception] = SegmenterError):
        self.masks, self.fault, self.calls = masks, fault, []

    def segment(self, image, prompts):
        self.calls.append(len(prompts))
        if not image.any():
            raise self.fault("the image is black")
        if prompts[0].box is not None:
            return [Mask(data=square(0, 0, 3).data, score=0.1) for _ in prompts]
        return [min(self.masks, key=lambda mask: _away(mask, prompt.points[0])) for prompt in prompts]


def _away(mask, point):
    rows, columns = np.nonzero(mask.data)
    return np.hypot(columns.mean() - point.x, rows.mean() - point.y)


class Says:
    """A reasoner that says one text, and keeps the images it was shown."""

    def __init__(self, choice: str):
        self.text, self.images = f'<think>a</think><answer>{{"choice": {choice}}}</answer>', []

    def frame(self, size):
        return medground.Frame("pixel", size)

    def generate(self, batch, sampling):
        self.images += [messages[0]["content"][0]["image"] for messages in batch]
        frame = self.frame((1, 1))
        return [[Completion(text=self.text, frame=frame)] * sampling.num_generations for _ in batch]


def query(shade: int = 100) -> Query:
    return Query(image=np.full((*SIZE, 3), shade, np.uint8), question="Which is it?", id=f"q{shade}")


def sample(mask: Mask | None, shade: int = 100) -> Sample:
    regions = () if mask is None else with_candidates(query(), [mask]).candidates
    return Sample(query=query(shade), target=Target(regions=regions or ()), labels={})


def pipeline(choice: str = "1", **arguments) -> Pipeline:
    segmenter = arguments.pop("segmenter", Squares())
    arguments = {"proposer": segmenter, "proposals": ProposalsConfig(side=4), **arguments}
    return Pipeline(Says(choice), medground.build("prompt_interface", "choose", least=0), segmenter, **arguments)


def test_a_grid_prompts_in_the_middle_of_equal_parts():
    segmenter = Squares()
    image = query().image
    masks = propose(segmenter, image, point_prompts(image, 3), k=8, overlap=0.7)
    assert segmenter.calls == [9], "one call, and so one encoding"
    assert [mask.score for mask in masks] == [0.6, 0.9, 0.8], "in reading order"
    assert [tuple(point) for point in grid((30, 60), 3)][:4] == [(10, 5), (30, 5), (50, 5), (10, 15)]


def test_the_surest_of_what_overlaps_is_kept_and_no_more_than_k():
    shifted = square(41, 5, score=0.7)  # IoU with RIGHT 0.82
    assert distinct([shifted, RIGHT, LEFT], k=8, overlap=0.7) == [RIGHT, LEFT]
    assert distinct([shifted, RIGHT, LEFT], k=8, overlap=0.9) == [RIGHT, shifted, LEFT]
    assert distinct([LEFT, LOW, RIGHT], k=2, overlap=0.7) == [RIGHT, LOW]


def test_what_the_segmenter_is_less_sure_of_than_the_least_score_is_no_candidate():
    answers = pipeline(proposals=ProposalsConfig(side=4, least_score=0.8))
    assert [candidate.mask for candidate in answers(query()).query.candidates] == [RIGHT, LOW]


def test_empty_masks_specks_and_backgrounds_are_no_candidates():
    whole, most, empty = (Mask(data=data) for data in (np.ones(SIZE, bool), np.ones(SIZE, bool), np.zeros(SIZE, bool)))
    most.data[:, 40:] = False
    speck = square(0, 0, 1, size=(40, 60))
    assert distinct([whole, most, empty, speck, LEFT], k=8, overlap=1.0) == [LEFT]


def test_a_segmenter_that_gives_another_number_of_masks_is_wrong_code():
    class Short(Squares):
        def segment(self, image, prompts):
            return super().segment(image, prompts)[:-1]

    with pytest.raises(RunError, match="wrong number of masks: 15 for 16"):
        pipeline(segmenter=Short())(query())


def test_the_chosen_candidate_is_the_region_and_its_mask_the_mask():
    segmenter = Squares()
    result = pipeline("2", segmenter=segmenter)(query())
    assert result.fault is None and result.regions[0].box == Box(40, 5, 50, 15)
    assert np.array_equal(result.mask.data, RIGHT.data) and result.mask.score == 0.9
    assert len(result.regions[0].points) == 2 and all(RIGHT.data[int(y), int(x)] for x, y in result.regions[0].points)
    assert segmenter.calls == [16], "the segmenter is not asked again"
    assert [candidate.mask for candidate in result.query.candidates] == [LEFT, RIGHT, LOW]


def test_the_reasoner_sees_the_candidates_on_the_image():
    answers = pipeline()
    answers(query())
    [image] = answers.reasoner.images
    assert image.shape == query().image.shape and not np.array_equal(image, query().image)


def test_none_is_an_abstention_and_another_number_a_fault():
    none, wrong = pipeline("null")(query()), pipeline("4")(query())
    assert none.fault is None and none.regions == () and not none.mask.data.any()
    assert wrong.fault is Fault.BAD_CHOICE and wrong.mask is None


def test_another_segmenter_draws_the_chosen_candidate_anew():
    refines, proposer = Squares(), Squares()
    result = pipeline("2", segmenter=refines, proposer=proposer)(query())
    assert result.mask.data.sum() == 9 and result.regions[0].box == Box(40, 5, 50, 15)
    assert (proposer.calls, refines.calls) == ([16], [1])


def test_without_a_segmenter_the_mask_is_the_candidates_own():
    result = pipeline("2", segmenter=None, proposer=Squares())(query())
    assert np.array_equal(result.mask.data, RIGHT.data)


def test_images_are_proposed_for_once():
    segmenter = Squares()
    answers = pipeline(segmenter=segmenter)
    answers.batch([query(), replace(query(), question="And now?"), query(90)])
    answers.render(query())
    assert segmenter.calls == [16, 16]


def test_a_query_may_bring_candidates_of_its_own():
    segmenter = Squares()
    brought = with_candidates(query(), [LOW])
    result = pipeline(segmenter=segmenter)(brought)
    assert np.array_equal(result.mask.data, LOW.data) and segmenter.calls == []


@pytest.mark.parametrize(
    ("error", "fault"),
    [(SegmenterError, Fault.SEGMENTER), (KeyError, Fault.SEGMENTER), (MemoryError, Fault.OUT_OF_MEMORY)],
)
def test_a_proposer_that_fails_is_the_segmenters_fault_and_nobody_is_asked(error, fault):
    answers = pipeline(segmenter=Squares(fault=error))
    failed, answered = answers.batch([query(0), query()])
    assert failed.fault is fault and "black" in failed.cause and failed.mask is None
    assert answered.fault is None and len(answers.reasoner.images) == 1


def test_a_failed_proposal_is_no_score_and_is_not_kept():
    cache = StageCache()
    segmenter = Squares()
    answers = pipeline(segmenter=segmenter, cache=cache)
    [[completion]] = answers.completions([query(0)], medground.Sampling())
    [rollout] = answers.rollouts([sample(LEFT, 0)], [completion], masks=True)
    assert rollout.fault is Fault.SEGMENTER and "black" in rollout.cause
    [learned] = answers.rollouts([sample(LEFT, 0)], [Completion(text=Says("null").text, frame=None)], masks=True)
    assert learned.fault is Fault.SEGMENTER, "what a policy says without candidates is not scored"
    assert segmenter.calls == [16, 16, 16]


def test_a_pipeline_proposes_for_an_interface_that_chooses_alone():
    boxes = Pipeline(Says("1"), medground.build("prompt_interface", "bbox"), Squares(), proposer=Squares())
    with pytest.raises(RecipeError, match="does not choose"):
        boxes(query())


def test_rollouts_show_reward_terms_the_candidates():
    answers = pipeline("1")
    [rollout] = answers.rollouts([sample(LEFT)], [Completion(text=Says("1").text, frame=None)], masks=True)
    assert len(rollout.sample.query.candidates) == 3 and np.array_equal(rollout.mask.data, LEFT.data)


def recipe(**changes):
    base = {
        "reasoner": {"name": "scripted", "texts": [Says("1").text]},
        "prompt_interface": {"name": "choose", "least": 0},
        "proposer": "grid",
        "segmenter": "region_growing",
        "proposals": {"side": 3, "k": 2},
    }
    return resolve({key: value for key, value in {**base, **changes}.items() if value is not None})


def spotted() -> Query:
    image = np.full((48, 48, 3), 90, np.uint8)
    image[8:20, 6:18], image[26:40, 28:42] = 220, 20
    return Query(image=image, question="Which is bright?", id="spots")


def counts(cache, **changes):
    before = dict(cache.misses)
    Pipeline.from_recipe(recipe(**changes), cache=cache)(spotted())
    return {stage: cache.misses[stage] - before[stage] for stage in ("proposals", "completions")}


def test_proposals_are_a_stage_of_their_own():
    cache = StageCache()
    assert counts(cache) == {"proposals": 1, "completions": 1}
    assert counts(cache) == {"proposals": 0, "completions": 0}
    other = {"name": "scripted", "texts": [Says("2").text]}
    assert counts(cache, reasoner=other) == {"proposals": 0, "completions": 1}
    assert counts(cache, prompt_interface={"name": "choose", "least": 96}) == {"proposals": 0, "completions": 1}
    assert counts(cache, proposer="threshold") == {"proposals": 1, "completions": 1}
    assert counts(cache, segmenter={"name": "region_growing", "side": 24}) == {"proposals": 1, "completions": 1}
    assert counts(cache, proposals={"side": 3, "k": 1}) == {"proposals": 1, "completions": 1}


def test_another_segmenter_beside_a_proposer_redoes_masks_alone():
    cache = StageCache()
    counts(cache, proposer="region_growing", segmenter="ellipse")
    assert counts(cache, proposer="region_growing", segmenter="box_fill", prompt="box") == {
        "proposals": 0,
        "completions": 0,
    }


def test_a_grid_prompts_the_recipes_segmenter_with_points_though_it_reads_text():
    class Both(Squares):
        accepts = frozenset({"box", "points", "text"})

    segmenter = Both()
    pipeline(segmenter=segmenter)(query())
    assert segmenter.calls == [16]


def test_proposals_outlive_a_process_and_damage(tmp_path):
    Pipeline.from_recipe(recipe(), cache=StageCache(tmp_path))(spotted())
    again = StageCache(tmp_path)
    first = Pipeline.from_recipe(recipe(), cache=again)(spotted())
    assert again.misses["proposals"] == 0 and first.mask.data.any()
    kept = tmp_path / "proposals.jsonl"
    [line] = kept.read_text().splitlines()
    key, entry = json.loads(line)
    entry[0]["counts"] = "123"
    kept.write_text(json.dumps([key, entry]) + "\n")
    damaged = StageCache(tmp_path)
    result = Pipeline.from_recipe(recipe(), cache=damaged)(spotted())
    assert damaged.misses["proposals"] == 1 and np.array_equal(result.mask.data, first.mask.data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_interface": "bbox"}, "does not choose among any"),
        ({"proposer": None, "proposals": None}, "names no proposer"),
        ({"proposer": None}, "no effect without a proposer"),
        ({"segmenter": None}, "the recipe names none"),
        ({"proposer": {"name": "grid", "k": 3}}, "has no arguments"),
        ({"segmenter": "box_fill"}, "was not trained for points"),
        ({"proposer": "box_fill"}, "was not trained for points"),
        ({"proposer": "gird"}, "no segmenter 'gird'"),
        ({"proposer": {"name": "threshold", "margins": 2}}, "margins"),
        ({"proposals": {"k": 0}}, "proposals.k: 0"),
        ({"proposals": {"k": 33}}, "proposals.k: 33"),
    ],
)
def test_recipes_that_cannot_propose_or_choose_are_refused(changes, message):
    with pytest.raises(medground.MedgroundError, match=message):
        check(recipe(**changes))


def test_recipes_that_can_are_not():
    assert find_problems(recipe()) == []
    assert find_problems(recipe(proposer="threshold", segmenter=None)) == []
    assert find_problems(recipe(proposer="threshold", segmenter="box_fill", prompt="box")) == []
    assert find_problems(recipe(segmenter="box_fill", allow_untrained=True)) == []
    with pytest.raises(InvalidRecipe):
        check(recipe(proposer="threshold", segmenter="box_fill"))  # points would be given to it


def test_a_recipe_explains_and_describes_what_proposes():
    assert "grid" in explain(recipe(), "proposer").allowed and "threshold" in explain(recipe(), "proposer").allowed
    assert explain(recipe(), "proposals.k").value == 2 and explain(recipe(), "proposer").origin
    text = describe(recipe())
    assert "candidates" in text and "at most 2 masks" in text and "masks        " not in text
    assert "image, box, points -> mask" in describe(recipe(proposer="threshold"))


def rollout(choice: int | None, truth: Mask | None, masks=(LEFT, RIGHT), fault: Fault | None = None) -> Rollout:
    given = sample(truth)
    proposed = with_candidates(given.query, list(masks))
    regions = () if choice is None else (proposed.candidates[choice],)
    return Rollout(
        sample=replace(given, query=proposed),
        completion=Completion(text="", frame=None),
        grounding=Grounding(regions=regions, fault=fault),
    )


def test_candidates_bound_what_choosing_can_reach():
    near = square(41, 5)  # with RIGHT: IoU 9/11, Dice 0.9
    chosen = candidate_metrics(rollout(1, near))
    assert chosen == {"candidate_dice": pytest.approx(0.9), "candidate_recall": 1.0, "selection_accuracy": 1.0}
    for other in (rollout(0, near), rollout(None, near), rollout(1, near, fault=Fault.BAD_CHOICE)):
        assert candidate_metrics(other) == {**chosen, "selection_accuracy": 0.0}


def test_selection_is_not_judged_where_no_candidate_stands_for_the_target():
    half = Mask(data=RIGHT.data | square(50, 5).data)  # IoU exactly one half
    assert candidate_metrics(rollout(1, half))["candidate_recall"] == 1.0
    far = square(46, 5)
    assert candidate_metrics(rollout(1, far)) == {"candidate_dice": pytest.approx(0.4), "candidate_recall": 0.0}
    assert candidate_metrics(rollout(None, far, masks=())) == {"candidate_dice": 0.0, "candidate_recall": 0.0}


def test_absent_targets_and_answers_without_candidates_have_no_such_metrics():
    assert candidate_metrics(rollout(1, None)) == {}
    plain = Rollout(sample=sample(LEFT), completion=Completion(text="", frame=None), grounding=Grounding())
    assert candidate_metrics(plain) == {}


def test_a_choice_counts_whoever_drew_its_mask_since():
    drawn = rollout(1, RIGHT)
    anew = replace(drawn, grounding=drawn.grounding.with_masks([square(0, 0)]))
    assert candidate_metrics(anew)["selection_accuracy"] == 1.0


@pytest.mark.slow
def test_an_evaluation_reports_the_ceiling_beside_the_choice(tmp_path):
    samples = [sample(RIGHT), sample(LEFT, 90), sample(None, 80), sample(LEFT, 0)]
    conditions = ["answer", "oracle_box", "blank", "mirrored"]
    result = medground.evaluate(pipeline("2"), data=samples, conditions=conditions, out=tmp_path / "report")
    means = {
        name: result.mean(name) for name in ("dice_joint", "candidate_dice", "candidate_recall", "selection_accuracy")
    }
    assert means == {"dice_joint": 0.5, "candidate_dice": 1.0, "candidate_recall": 1.0, "selection_accuracy": 0.5}
    row = result.summary.conditions["answer"].metrics["candidate_dice"]
    assert (row.n, result.mean("no_target_accuracy")) == (2, 0.0), "the image that failed is excluded"
    failed = next(record for record in result.records if record.id == "q0" and record.condition == "answer")
    assert failed.answers[0].fault is Fault.SEGMENTER
    assert "mirrored" in result.summary.skipped and "oracle_box" not in result.summary.skipped
    report = (tmp_path / "report" / "report.html").read_text()
    assert "candidate_recall" in report and "selection_accuracy" in report and "IoU of 0.5 or more" in report


def test_regions_that_name_no_candidate_are_never_taken_for_one():
    region = Region(box=Box(0, 0, 5, 5))
    wrong = replace(rollout(1, RIGHT), grounding=Grounding(regions=(region,)))
    assert candidate_metrics(wrong)["selection_accuracy"] == 0.0
