"""The graphs on toy components: every stage, its key, and what happens when one fails."""

import numpy as np
import pytest

import medground
from medground.errors import InputError, PluginError, RecipeError, RunError, SegmenterError
from medground.pipeline import pipeline as graphs
from medground.pipeline.cache import StageCache
from medground.recipe import resolve
from medground.rewards.rubric import Rubric, rubric
from medground.types import Completion, Fault, Mask, Query, Sample, Sampling, SpatialPrompt, Target

ANSWER = '<think>the bright one</think><answer>{"bbox": [10, 20, 40, 60], "points_1": [20, 30], "points_2": [30, 50]}</answer>'
PLAIN = {
    "reasoner": {"name": "scripted", "texts": [ANSWER]},
    "prompt_interface": "bbox_points",
    "segmenter": "box_fill",
    "prompt": "box",
}


def query(shade: int = 0, question: str = "What is bright?") -> Query:
    return Query(image=np.full((80, 100, 3), shade, np.uint8), question=question, id=f"q{shade}")


def sample(shade: int = 0) -> Sample:
    mask = np.zeros((80, 100), bool)
    mask[20:60, 10:40] = True
    target = Target(
        box=medground.Box(10, 20, 40, 60), points=(medground.Point(20, 30), medground.Point(30, 50)), mask=mask
    )
    return Sample(query=query(shade), target=target)


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


def graph_of(reasoner=None, segmenter=None, store=None, **recipe) -> graphs.Pipeline:
    graph = graphs.Pipeline(resolve({**PLAIN, **recipe}), store)
    graph.__dict__ |= {key: part for key, part in {"reasoner": reasoner, "segmenter": segmenter}.items() if part}
    return graph


def test_one_query_goes_all_the_way():
    found = medground.load(PLAIN)(query())
    assert found.fault is None
    assert found.grounding.think == "the bright one"
    assert found.grounding.prompt == SpatialPrompt(
        box=medground.Box(10, 20, 40, 60), points=(medground.Point(20, 30), medground.Point(30, 50))
    )
    assert found.mask.data.sum() == 30 * 40
    assert found.to_dict()["box"] == [10, 20, 40, 60]
    assert found.to_dict()["mask"] == {"area": 1200, "score": found.mask.score}


def test_queries_about_one_image_reach_the_segmenter_together():
    segmenter = Counting()
    found = graph_of(segmenter=segmenter).batch([query(1), query(2), query(1, "And what is dark?")])
    assert sorted(segmenter.calls) == [1, 2]
    assert [item.query.id for item in found] == ["q1", "q2", "q1"]
    assert all(item.mask is not None for item in found)


def test_a_text_that_cannot_be_used_is_a_fault_and_not_an_error():
    found = graph_of(reasoner=Asked("I would rather not say."))(query())
    assert (found.mask, found.fault) == (None, Fault.NO_ANSWER)
    assert found.fault.of_model


def test_a_failing_segmenter_costs_only_its_image_and_says_why():
    segmenter = Counting(fails_on=7)
    good, bad = graph_of(segmenter=segmenter).batch([query(1), query(7)])
    assert good.fault is None
    assert bad.fault is Fault.SEGMENTER
    assert not bad.fault.of_model
    assert "no embedding" in bad.cause


def test_a_transport_failure_is_never_the_models():
    found = graph_of(reasoner=Asked("", Fault.TRANSPORT))(query())
    assert found.fault is Fault.TRANSPORT
    assert found.cause == "the server is away"
    assert found.grounding.think is None


def test_what_a_server_says_it_used_is_in_the_result():
    assert graph_of(reasoner=Asked())(query()).to_dict()["usage"] == {"prompt_tokens": 9}


def test_the_recipe_narrows_the_prompt():
    seen = []

    class Watching(Counting):
        def segment(self, image, prompts):
            seen.extend(prompts)
            return super().segment(image, prompts)

    graph_of(segmenter=Watching(), prompt="box")(query())
    assert [prompt.kinds for prompt in seen] == [{"box"}]


def test_a_wrong_number_of_answers_is_wrong_code_and_raises():
    class Short(Counting):
        def segment(self, image, prompts):
            return []

    with pytest.raises(RunError, match="check_segmenter"):
        graph_of(segmenter=Short())(query())


def test_a_sweep_that_swaps_the_segmenter_asks_the_reasoner_once(tmp_path):
    first, second, third = Asked(), Asked(), Asked()
    graph_of(first, store=StageCache(tmp_path))(query())
    graph_of(second, store=StageCache(tmp_path), segmenter="ellipse")(query())
    assert (first.asked, second.asked) == (1, 0)
    graph_of(third, store=StageCache(tmp_path), prompt_interface={"name": "bbox_points", "style": "single_quoted"})(
        query()
    )
    assert third.asked == 1, "another prompt is another question"


def test_masks_are_reused_and_equal(tmp_path):
    segmenter = Counting()
    store = StageCache(tmp_path)
    fresh = graph_of(segmenter=segmenter, store=store)(query())
    again = graph_of(segmenter=segmenter, store=StageCache(tmp_path))(query())
    assert segmenter.calls == [1]
    assert (again.mask.data == fresh.mask.data).all()
    assert again.mask.score == fresh.mask.score
    assert again.completion.frame == fresh.completion.frame


def test_a_torn_line_costs_that_entry_only(tmp_path):
    graph_of(store=StageCache(tmp_path)).batch([query(1), query(2)])
    path = tmp_path / "completions.jsonl"
    path.write_text(path.read_text()[:-20])
    store = StageCache(tmp_path)
    reasoner = Asked()
    graph_of(reasoner, store=store).batch([query(1), query(2)])
    assert reasoner.asked == 1
    assert StageCache(tmp_path).hits == {"completions": 0, "masks": 0}
    graph_of(reasoner, store=StageCache(tmp_path)).batch([query(1), query(2)])
    assert reasoner.asked == 1, "what was made again is kept, the torn line notwithstanding"


def test_transport_faults_are_not_kept(tmp_path):
    failing, working = Asked("", Fault.TRANSPORT), Asked()
    graph_of(failing, store=StageCache(tmp_path))(query())
    assert graph_of(working, store=StageCache(tmp_path))(query()).fault is None


def test_the_training_graph_scores_groups():
    recipe = resolve({**PLAIN, "rewards": {"bbox_iou": 2.0, "format_seg": 1.0}})
    training = graphs.RolloutPipeline(recipe, rubric(recipe))
    groups = training([sample(1), sample(2)], Sampling(num_generations=4))
    assert [len(group.rollouts) for group in groups] == [4, 4]
    assert [score.total for group in groups for score in group.scores] == pytest.approx([3.0] * 8)
    assert all(rollout.mask is None for group in groups for rollout in group.rollouts), "no term asked for masks"


def test_masks_are_made_only_for_terms_that_need_them_and_once_per_image():
    recipe = resolve({**PLAIN, "rewards": {"mask_dice": 1.0}})
    training = graphs.RolloutPipeline(recipe, rubric(recipe))
    segmenter = training.grounding.__dict__["segmenter"] = Counting()
    groups = training([sample(1), sample(2)], Sampling(num_generations=4))
    assert segmenter.calls == [4, 4]
    assert [score.total for group in groups for score in group.scores] == pytest.approx([1.0] * 8)


def test_a_failing_segmenter_is_a_counted_failure_and_not_a_zero():
    recipe = resolve({**PLAIN, "rewards": {"mask_dice": 1.0}})
    training = graphs.RolloutPipeline(recipe, rubric(recipe))
    training.grounding.__dict__["segmenter"] = Counting(fails_on=7)
    good, bad = training([sample(1), sample(7)], Sampling(num_generations=2))
    assert [score.total for score in good.scores] == pytest.approx([1.0, 1.0])
    assert [score.total for score in bad.scores] == [None, None]
    assert {rollout.fault for rollout in bad.rollouts} == {Fault.SEGMENTER}


def test_a_rubric_of_plain_callables_composes_too():
    recipe = resolve(PLAIN)
    training = graphs.RolloutPipeline(
        recipe, Rubric([("length", lambda rollout: len(rollout.completion.text) / 1000, 1.0)])
    )
    (group,) = training([sample()], Sampling(num_generations=1))
    assert group.scores[0].total == pytest.approx(len(ANSWER) / 1000)


def test_a_graph_describes_itself():
    text = graphs.describe(resolve("infer/toy"))
    for stage in ("completions", "groundings", "masks", "region_growing", "bbox_points"):
        assert stage in text


def test_loading_refuses_what_cannot_work():
    with pytest.raises(PluginError, match="did you mean 'ellipse'"):
        medground.load("infer/toy", "segmenter=elipse")
    with pytest.raises(RecipeError, match="segmentr"):
        medground.load("infer/toy", "segmentr=ellipse")


def test_a_run_folder_is_a_recipe(tmp_path):
    resolve("infer/toy", "segmenter=ellipse").write(tmp_path / "run")
    assert medground.load(tmp_path / "run").recipe.component("segmenter") == ("ellipse", {})


def test_a_segmenters_missing_weights_are_told_before_a_reasoner_is_built(tmp_path):
    absent = {"name": "medsam", "checkpoint": str(tmp_path / "medsam.pth")}
    rewards = {"region_text": {"checkpoint": "???"}}  # not looked at: grounding scores nothing
    graph = medground.load(PLAIN | {"segmenter": absent, "rewards": rewards})
    with pytest.raises(InputError, match=r"segmenter\.checkpoint: the checkpoint .*medsam\.pth does not exist"):
        graph(query())
    assert "reasoner" not in vars(graph)


def test_rewards_that_need_no_mask_need_no_weights_of_a_segmenter(tmp_path):
    absent = {"name": "medsam", "checkpoint": str(tmp_path / "medsam.pth")}
    recipe = resolve(PLAIN | {"segmenter": absent, "rewards": {"format_seg": 1}})
    ((group,),) = [graphs.RolloutPipeline(recipe, rubric(recipe))([sample()], Sampling())]
    assert len(group.rollouts) == 1
