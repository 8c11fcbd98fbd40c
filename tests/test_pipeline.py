"""The pipelines on toy components: every stage, what it is cached by, and what happens when one fails."""

from dataclasses import replace

import numpy as np
import pytest

import medground
from medground.errors import InputError, PluginError, RecipeError, RunError, SegmenterError
from medground.pipeline.cache import StageCache
from medground.pipeline.components import Deferred
from medground.pipeline.describe import describe
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.rollouts import RolloutPipeline
from medground.recipe import resolve
from medground.rewards.rubric import Rubric, rubric
from medground.runs.folder import write_recipe
from medground.types import Completion, Fault, Grounding, Mask, Query, Region, Sample, Sampling, Target

ANSWER = '<think>the bright one</think><answer>{"bbox": [10, 20, 40, 60], "points_1": [20, 30], "points_2": [30, 50]}</answer>'
PLAIN = {
    "reasoner": {"name": "scripted", "texts": [ANSWER]},
    "prompt_interface": "bbox_points",
    "segmenter": "box_fill",
    "prompt": "box",
}


TRUTH = Region(box=medground.Box(10, 20, 40, 60), points=(medground.Point(20, 30), medground.Point(30, 50)))


def query(shade: int = 0, question: str = "What is bright?") -> Query:
    return Query(image=np.full((80, 100, 3), shade, np.uint8), question=question, id=f"q{shade}")


def sample(shade: int = 0) -> Sample:
    mask = np.zeros((80, 100), bool)
    mask[20:60, 10:40] = True
    return Sample(query=query(shade), target=Target(regions=(replace(TRUTH, mask=Mask(data=mask)),)))


class Counting:
    """A segmenter that counts its calls and answers with the filled box."""

    accepts = frozenset({"box", "points"})

    def __init__(self, fails_on: int | None = None) -> None:
        self.calls: list[int] = []
        self.fails_on = fails_on

    def segment(self, image, prompts):
        self.calls.append(len(prompts))
        if image[0, 0, 0] == self.fails_on:
            raise SegmenterError("no embedding", hint="none")
        data = np.zeros(image.shape[:2], bool)
        box = prompts[0].box
        data[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
        return [Mask(data=data, score=0.5) for _ in prompts]


class Asked:
    """A reasoner that counts what it was asked."""

    def __init__(self, text: str = ANSWER, fault: Fault | None = None) -> None:
        self.asked = 0
        self.text, self.fault = text, fault

    def frame(self, size):
        return medground.Frame("pixel", size)

    def generate(self, batch, sampling):
        self.asked += len(batch)
        lost = {"fault": self.fault, "cause": "the server is away"} if self.fault else {"usage": {"prompt_tokens": 9}}
        one = Completion(text=self.text, frame=self.frame((80, 100)), **lost)
        return [[one] * sampling.num_generations for _ in batch]


def pipeline_of(reasoner=None, segmenter=None, cache=None, **recipe) -> Pipeline:
    return medground.load({**PLAIN, **recipe}, reasoner=reasoner, segmenter=segmenter, cache=cache)


def named(component, name="mine") -> Deferred:
    """A component as a recipe's own are: built late, and kept in a cache under a name."""
    return Deferred(name, name, lambda: component)


def test_one_query_goes_all_the_way():
    result = medground.load(PLAIN)(query())
    assert result.fault is None
    assert result.grounding.think == "the bright one"
    assert replace(result.grounding.region, mask=None) == TRUTH
    assert result.grounding.region.mask is result.mask
    assert result.mask.data.sum() == 30 * 40
    assert result.to_dict()["box"] == [10, 20, 40, 60]
    figures = result.to_dict()["mask"]
    assert (figures["area"], figures["score"]) == (1200, result.mask.score)
    assert figures["measures"]["area_px2"] == 1200 and figures["measures"]["centroid_px"] == [25, 40]


def test_queries_about_one_image_reach_the_segmenter_together():
    segmenter = Counting()
    result = pipeline_of(segmenter=segmenter).batch([query(1), query(2), query(1, "And what is dark?")])
    assert sorted(segmenter.calls) == [1, 2]
    assert [item.query.id for item in result] == ["q1", "q2", "q1"]
    assert all(item.mask is not None for item in result)


def test_a_text_that_cannot_be_used_is_a_fault_and_not_an_error():
    result = pipeline_of(reasoner=Asked("I would rather not say."))(query())
    assert (result.mask, result.fault) == (None, Fault.NO_ANSWER)
    assert result.fault.of_model


def test_a_failing_segmenter_costs_only_its_image_and_says_why():
    segmenter = Counting(fails_on=7)
    good, bad = pipeline_of(segmenter=segmenter).batch([query(1), query(7)])
    assert good.fault is None
    assert bad.fault is Fault.SEGMENTER
    assert not bad.fault.of_model
    assert "no embedding" in bad.cause


def test_a_transport_failure_is_never_the_models():
    result = pipeline_of(reasoner=Asked("", Fault.TRANSPORT))(query())
    assert result.fault is Fault.TRANSPORT
    assert result.cause == "the server is away"
    assert result.grounding.think is None


def test_what_a_server_says_it_used_is_in_the_result():
    assert pipeline_of(reasoner=Asked())(query()).to_dict()["usage"] == {"prompt_tokens": 9}


def test_the_recipe_narrows_the_prompt():
    seen = []

    class Watching(Counting):
        def segment(self, image, prompts):
            seen.extend(prompts)
            return super().segment(image, prompts)

    pipeline_of(segmenter=Watching(), prompt="box")(query())
    assert [prompt.kinds for prompt in seen] == [{"box"}]


def test_a_wrong_number_of_answers_is_wrong_code_and_raises():
    class Short(Counting):
        def segment(self, image, prompts):
            return []

    with pytest.raises(RunError, match="check_segmenter"):
        pipeline_of(segmenter=Short())(query())


def test_another_segmenter_does_not_ask_the_reasoner_again(tmp_path):
    first, second, third = Asked(), Asked(), Asked()
    pipeline_of(named(first), cache=StageCache(tmp_path))(query())
    again = medground.load({**PLAIN, "segmenter": "ellipse"}, reasoner=named(second), cache=StageCache(tmp_path))(
        query()
    )
    assert (first.asked, second.asked) == (1, 0)
    assert 0 < again.mask.data.sum() < 30 * 40
    other_prompt = {"name": "bbox_points", "style": "single_quoted"}
    pipeline_of(named(third), cache=StageCache(tmp_path), prompt_interface=other_prompt)(query())
    assert third.asked == 1, "another prompt is another question"


def test_masks_are_reused_and_equal(tmp_path):
    segmenter = Counting()
    fresh = pipeline_of(segmenter=named(segmenter), cache=StageCache(tmp_path))(query())
    again = pipeline_of(segmenter=named(segmenter), cache=StageCache(tmp_path))(query())
    assert segmenter.calls == [1]
    assert (again.mask.data == fresh.mask.data).all()
    assert again.mask.score == fresh.mask.score
    assert again.completion.frame == fresh.completion.frame


def test_what_objects_answer_is_not_cached_because_nothing_tells_two_of_them_apart():
    cache, reasoner, segmenter = StageCache(), Asked(), Counting()
    for _ in range(2):
        pipeline_of(reasoner, segmenter, cache=cache)(query())
    assert (reasoner.asked, segmenter.calls) == (2, [1, 1])
    assert cache.hits == cache.misses == {"proposals": 0, "completions": 0, "masks": 0}


def test_a_torn_line_costs_that_entry_only(tmp_path):
    pipeline_of(named(Asked()), cache=StageCache(tmp_path)).batch([query(1), query(2)])
    path = tmp_path / "completions.jsonl"
    path.write_text(path.read_text()[:-20])
    reasoner = Asked()
    pipeline_of(named(reasoner), cache=StageCache(tmp_path)).batch([query(1), query(2)])
    assert reasoner.asked == 1
    pipeline_of(named(reasoner), cache=StageCache(tmp_path)).batch([query(1), query(2)])
    assert reasoner.asked == 1, "what was made again is kept, the torn line notwithstanding"


def test_transport_faults_are_not_cached(tmp_path):
    failing, working = Asked("", Fault.TRANSPORT), Asked()
    pipeline_of(named(failing), cache=StageCache(tmp_path))(query())
    assert pipeline_of(named(working), cache=StageCache(tmp_path))(query()).fault is None


def test_rollouts_are_scored_in_groups():
    recipe = {**PLAIN, "rewards": {"bbox_iou": 2.0, "format_seg": 1.0}}
    rollouts = RolloutPipeline(medground.load(recipe), rubric(recipe))
    groups = rollouts([sample(1), sample(2)], Sampling(num_generations=4))
    assert [len(group.rollouts) for group in groups] == [4, 4]
    assert [score.total for group in groups for score in group.scores] == pytest.approx([3.0] * 8)
    assert all(rollout.mask is None for group in groups for rollout in group.rollouts), "no term asked for masks"


def test_masks_are_made_only_for_terms_that_need_them_and_once_per_image():
    segmenter = Counting()
    rollouts = RolloutPipeline(pipeline_of(segmenter=segmenter), rubric({"rewards": {"mask_dice": 1.0}}))
    groups = rollouts([sample(1), sample(2)], Sampling(num_generations=4))
    assert segmenter.calls == [4, 4]
    assert [score.total for group in groups for score in group.scores] == pytest.approx([1.0] * 8)


def test_a_failing_segmenter_is_a_counted_failure_and_not_a_zero():
    rollouts = RolloutPipeline(pipeline_of(segmenter=Counting(fails_on=7)), rubric({"rewards": {"mask_dice": 1.0}}))
    good, bad = rollouts([sample(1), sample(7)], Sampling(num_generations=2))
    assert [score.total for score in good.scores] == pytest.approx([1.0, 1.0])
    assert [score.total for score in bad.scores] == [None, None]
    assert {rollout.fault for rollout in bad.rollouts} == {Fault.SEGMENTER}


def test_a_rubric_of_plain_functions_scores_too():
    length = Rubric([("length", lambda rollout: len(rollout.completion.text) / 1000, 1.0)])
    (group,) = RolloutPipeline(pipeline_of(), length)([sample()], Sampling(num_generations=1))
    assert group.scores[0].total == pytest.approx(len(ANSWER) / 1000)


def test_every_region_of_an_answer_gets_its_mask_and_one_call_serves_them_all():
    class TwoBoxes:
        provides = frozenset({"box"})

        def render(self, query):
            return [{"role": "user", "content": "?"}]

        def parse(self, completion, size):
            return Grounding(regions=(TRUTH, Region(box=medground.Box(50, 20, 60, 30)), Region(points=TRUTH.points)))

    segmenter = medground.build("segmenter", "box_fill")
    result = Pipeline(Asked(), TwoBoxes(), segmenter, prompt="box")(query())
    assert [region.mask and int(region.mask.data.sum()) for region in result.regions] == [1200, 100, None]
    assert result.mask is None, "one region has no box, so nothing says what the whole is"


def test_a_recipe_describes_its_stages():
    text = describe(resolve("infer/toy"))
    for stage in ("completions", "groundings", "masks", "region_growing", "bbox_points"):
        assert stage in text


def test_loading_refuses_what_cannot_work():
    with pytest.raises(PluginError, match="did you mean 'ellipse'"):
        medground.load("infer/toy", "segmenter=elipse")
    with pytest.raises(RecipeError, match="segmentr"):
        medground.load("infer/toy", "segmentr=ellipse")


def test_a_run_folder_is_a_recipe(tmp_path):
    write_recipe(resolve("infer/toy", "segmenter=ellipse"), tmp_path / "run")
    assert medground.load(tmp_path / "run").recipe.component("segmenter").name == "ellipse"


def test_a_segmenters_missing_weights_are_told_before_a_reasoner_is_built(tmp_path):
    absent = {"name": "medsam", "checkpoint": str(tmp_path / "medsam.pth")}
    rewards = {"region_text": {"checkpoint": "???"}}  # not looked at: grounding scores nothing
    pipeline = medground.load(PLAIN | {"segmenter": absent, "rewards": rewards})
    with pytest.raises(InputError, match=r"segmenter\.checkpoint: the checkpoint .*medsam\.pth does not exist"):
        pipeline(query())
    assert "reasoner" not in vars(pipeline)


def test_rewards_that_need_no_mask_need_no_weights_of_a_segmenter(tmp_path):
    absent = {"name": "medsam", "checkpoint": str(tmp_path / "medsam.pth")}
    recipe = resolve(PLAIN | {"segmenter": absent})
    format_alone = rubric({"rewards": {"format_seg": 1}})
    rollouts = RolloutPipeline(Pipeline.from_recipe(recipe, segments=format_alone.needs_mask), format_alone)
    (group,) = rollouts([sample()], Sampling())
    assert len(group.rollouts) == 1


@pytest.mark.parametrize(
    ("interface", "arguments", "prompt", "gives"),
    [
        ("regions", {"points": False}, "points", "box"),
        ("regions", {"box": False}, "box", "points"),
        ("regions", {"style": "native", "dialect": "molmo"}, "box", "points"),
        ("tiled", {"arguments": {"points": False}}, "points", "box"),
    ],
)
def test_what_an_interface_is_told_not_to_ask_for_prompts_no_segmenter(interface, arguments, prompt, gives):
    words = {"reasoner": "toy", "segmenter": "region_growing", "prompt": prompt}
    pipeline = medground.load({**words, "prompt_interface": {"name": interface, **arguments}})
    with pytest.raises(RecipeError, match="never gives") as refused:
        pipeline.batch([query()])
    assert refused.value.hint == f"it gives {gives}"
