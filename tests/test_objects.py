"""What a recipe can say, objects can say: in training, in evaluation, and again when a run is continued or loaded."""

import dataclasses
import functools
import json
import sys
from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

import medground  # noqa: E402
from medground.cli import main  # noqa: E402
from medground.errors import Interrupted, RecipeError, RunError  # noqa: E402
from medground.recipe import resolve  # noqa: E402
from medground.recipe.objects import describe  # noqa: E402
from medground.runs import provenance  # noqa: E402
from medground.runs.folder import read_events, read_metadata  # noqa: E402


def vowels(rollout):
    """Return the share of vowels."""
    text = rollout.completion.text
    return sum(letter in "aeiou" for letter in text) / max(1, len(text))


def digits(rollout):
    """Return the share of digits."""
    text = rollout.completion.text
    return sum(letter.isdigit() for letter in text) / max(1, len(text))


def trl_length(completions, **columns):
    """Return the length of every completion, as TRL's reward functions do."""
    return [float(len(messages[0]["content"])) for messages in completions]


def verl_length(data_source, solution_str, ground_truth, extra_info):
    """Return the length of a completion, as verl's reward functions do."""
    return {"score": float(len(solution_str))}


class Everything:
    """A segmenter that returns the whole image, and counts its calls."""

    accepts = frozenset({"box", "points"})

    def __init__(self, score=0.5):
        self.score, self._calls = score, 0

    def segment(self, image, prompts):
        self._calls += 1
        return [medground.Mask(data=np.ones(image.shape[:2], bool), score=self.score) for _ in prompts]


@dataclasses.dataclass(frozen=True)
class MaskArea:
    """A term that wants the mask."""

    factor: float = 1.0
    needs_mask = True
    range = (0.0, 1.0)

    def __call__(self, rollout):
        return medground.RewardResult(None if rollout.mask is None else self.factor * float(rollout.mask.data.mean()))


def means(folder, label):
    return [line[f"reward/{label}/mean"] for line in read_events(folder)]


def stop_after(step):
    done = []
    return {"stopped": lambda: step in done, "report": lambda number, metrics: done.append(number)}


def with_weights(recipe):
    return {label: term.weight for label, term in recipe.terms.items()}


def test_terms_merge_like_those_of_a_recipe():
    base = {"rewards": {"bbox_iou": 1, "format_seg": 0.2, "points_align": 2}}
    values = {"mine": vowels, "half": (digits, 0.5), "format_seg": 0.7, "points_align": None, "bbox_iou": digits}
    recipe = resolve(base, values={"rewards": values})
    assert with_weights(recipe) == {"bbox_iou": 1, "format_seg": 0.7, "mine": 1, "half": 0.5}
    graded = medground.rubric(recipe)
    rewards = {term.label: term.reward for term in graded.terms if term.label != "format_seg"}
    assert rewards == {"bbox_iou": digits, "half": digits, "mine": vowels}
    again = resolve(recipe, "rewards.mine=0.3", "rewards.half=null")
    assert with_weights(again) == {"bbox_iou": 1, "format_seg": 0.7, "mine": 0.3}
    assert set(again.objects) == {"rewards.mine", "rewards.bbox_iou"}
    kept = resolve({"rewards": {"mine": 0.4}}, values={"rewards": {"mine": vowels}})
    assert with_weights(kept) == {"mine": 0.4}


def test_a_later_name_replaces_an_object_and_an_object_replaces_a_name():
    recipe = resolve("infer/toy", "segmenter=ellipse", values={"segmenter": Everything(), "data": [_sample("a")]})
    assert medground.load(recipe).segmenter is recipe.objects["segmenter"]
    assert medground.load(recipe, "segmenter=box_fill", "prompt=box").name("segmenter") == "box_fill"
    assert resolve(recipe, "data.path=elsewhere").data_source == "elsewhere"
    assert recipe.data_source == recipe.objects["data"]


def test_plain_values_are_those_of_a_recipe():
    values = {"grpo": {"max_steps": 3, "learning_rate": 1e-6}, "data": "made", "segmenter": "ellipse"}
    recipe = resolve("train/toy", values=values)
    assert (recipe.config.grpo.max_steps, recipe.config.grpo.learning_rate) == (3, 1e-6)
    assert (recipe.config.data.path, recipe.component("segmenter").name) == ("made", "ellipse")
    with pytest.raises(RecipeError, match=r"unknown key 'grop' .*did you mean 'grpo'"):
        resolve("train/toy", values={"grop": {"max_steps": 3}})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"segmenter": Everything}, r"segmenter is a class: Everything \(pass segmenter=Everything\(\)\)"),
        ({"rewards": {"mine": MaskArea}}, r"rewards.mine is a class: MaskArea"),
        ({"rewards": {"mine": (vowels, 1, 2)}}, r"rewards.mine is not \(function, weight\)"),
        ({"rewards": {"mine": object()}}, r"rewards.mine cannot hold a object"),
        ({"rewards": {"a.b": vowels}}, r"the label of a reward is not a word: 'a.b'"),
        ({"data": iter([])}, r"data is neither a path nor a sequence of samples: list_iterator"),
        ({"data": ["a.png"]}, r"data is neither a path nor a sequence of samples: list"),
        ({"grpo": {"max_steps": {1}}}, r"grpo cannot hold a dict: .*set"),
    ],
)
def test_a_value_that_cannot_stand_there_is_refused(values, sentence):
    with pytest.raises(RecipeError, match=sentence):
        resolve("train/toy", values=values)


def _factory(limit):
    def inner(rollout):
        return limit

    return inner


def test_the_hash_of_an_object_changes_with_its_source_and_its_settings():
    different = [
        vowels, digits, _factory(1), _factory(2), functools.partial(vowels), functools.partial(vowels, None),
        MaskArea(), MaskArea(2.0), Everything(), Everything(0.6), medground.from_trl(trl_length),
        medground.from_trl(trl_length, conversational=False), medground.from_verl(verl_length), lambda rollout: 1,
        lambda rollout: 2, Everything().segment, Everything(0.6).segment,
    ]  # fmt: skip
    hashes = [describe("rewards.mine", given).sha256 for given in different]
    assert len(set(hashes)) == len(hashes)
    assert describe("x", _factory(1)) == describe("x", _factory(1))
    used = Everything()
    used.segment(np.zeros((2, 2, 3), np.uint8), [])
    assert describe("segmenter", used) == describe(
        "segmenter", Everything()
    )  # a count with an underscore is no setting


def test_a_record_says_where_an_object_is_from_and_what_is_not_hashed():
    record = describe("rewards.mine", MaskArea())
    assert (record.name, record.source, record.unhashed) == (f"{__name__}.MaskArea", "test_objects.py", [])
    given = Everything()
    given.table = np.zeros(3)
    assert describe("segmenter", given).unhashed == ["table"]
    namespace = {"__name__": "typed"}
    exec("def mine(rollout):\n    return 1.0\ndef other(rollout):\n    return 2.0", namespace)
    typed = describe("rewards.mine", namespace["mine"])
    assert (typed.name, typed.source) == ("typed.mine", None)
    assert typed.sha256 != describe("rewards.mine", namespace["other"]).sha256


def _sample(name, value=0):
    query = medground.Query(image=np.full((8, 8, 3), value, np.uint8), question="Where?", id=name)
    region = medground.Region(
        box=medground.Box(1, 1, 4, 4), points=(medground.Point(1.5, 1.5), medground.Point(3.5, 3.5))
    )
    return medground.Sample(query=query, target=medground.Target(regions=(region,)))


def test_the_hash_of_samples_changes_with_what_they_hold(tiny):
    whole = medground.open_dataset(tiny / "data")
    some = [[_sample("a")], [_sample("b")], [_sample("a", 1)], [_sample("a"), _sample("b")], whole, whole[:2]]
    hashes = [describe("data", samples).sha256 for samples in some]
    assert len(set(hashes)) == len(hashes)
    assert hashes[0] == describe("data", [_sample("a")]).sha256


class CountedSamples(Sequence):
    """Samples that count how often all of them are read."""

    def __init__(self, samples):
        self.samples, self.readings = samples, 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]

    def __iter__(self):
        self.readings += 1
        return iter(self.samples)


def test_samples_are_hashed_once_for_a_recipe_its_variants_and_what_is_recorded():
    samples = CountedSamples([_sample("a")])
    recipe = resolve({"reasoner": "toy", "variants": {"other": {"seed": 1}}}, values={"data": samples})
    other = resolve(recipe, "prompt=box", variant="other")
    assert provenance.objects(other) == provenance.objects(recipe)
    assert other.data["data"]["object"] == provenance.objects(recipe)["data"].sha256
    assert samples.readings == 1
    assert describe("data", samples) == provenance.objects(recipe)["data"]


@pytest.mark.slow
def test_a_function_is_a_term_of_a_training_run(trials, tmp_path):
    run = medground.train(trials(), out=tmp_path / "run", rewards={"mine": vowels, "letters": 0}, grpo={"max_steps": 2})
    assert run.steps == 2
    lines = read_events(run.folder)
    assert all(line["reward"] == pytest.approx(line["reward/mine/mean"]) for line in lines)
    assert run.metrics["reward/mine/mean"] == lines[-1]["reward/mine/mean"]
    assert "step_time" not in run.metrics
    record = read_metadata(run.folder).objects["rewards.mine"]
    assert (record.name, record.source) == (f"{__name__}.vowels", "test_objects.py")
    assert record == describe("rewards.mine", vowels)
    written = json.loads((run.folder / "run.json").read_text())
    assert len(written["objects"]["rewards.mine"]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(written["objects"])
    assert run.load().reasoner  # a term is no part of a pipeline
    with pytest.raises(RecipeError, match=r"rewards\.mine is an object from Python, vowels"):
        medground.rubric(run.folder)
    assert medground.rubric(resolve(run.folder, values={"rewards": {"mine": vowels}})).terms[1].reward is vowels


@pytest.mark.slow
def test_the_weight_of_an_object_weighs_and_the_digest_of_a_run_knows_it(trials, tmp_path):
    mine = {"letters": None, "mine": (vowels, 0.5), "area": (medground.from_trl(trl_length), 0)}
    run = medground.train(trials(max_steps=1), out=tmp_path / "run", rewards=mine)
    line = read_events(run.folder)[0]
    assert line["reward"] == pytest.approx(0.5 * line["reward/mine/mean"])
    assert "reward/letters/mean" not in line
    other = medground.train(trials(max_steps=1), out=tmp_path / "other", rewards=mine | {"mine": (digits, 0.5)})
    hashes = {read_metadata(folder).recipe_sha256 for folder in (run.folder, other.folder)}
    assert len(hashes) == 2


@pytest.mark.slow
def test_functions_of_trl_and_verl_train_through_their_adapters(trials, tmp_path):
    rewards = {"trl": medground.from_trl(trl_length), "verl": medground.from_verl(verl_length), "letters": None}
    run = medground.train(trials(max_steps=2), out=tmp_path / "run", rewards=rewards)
    lengths = means(run.folder, "trl")
    assert lengths == means(run.folder, "verl")
    assert min(lengths) > 0
    assert read_metadata(run.folder).objects["rewards.trl"].name == "medground.rewards.adapters.FromTRL"


class Middle:
    """A prompt interface that asks as another one does, and reads the same box in every text."""

    provides = frozenset({"box"})

    def __init__(self, asks):
        self._asks = asks

    def __getattr__(self, name):
        return getattr(self.__dict__["_asks"], name)

    def parse(self, completion, size):
        box = medground.Box(size[1] / 4, size[0] / 4, size[1] * 3 / 4, size[0] * 3 / 4)
        return medground.Grounding(regions=(medground.Region(box=box),))


@pytest.fixture
def pieces(tiny):
    """Return objects for every place of a training run but the reasoner's."""
    asks = medground.build("prompt_interface", "bbox", template=str(tiny / "template.txt"))
    samples = list(medground.open_dataset(tiny / "data"))
    return {
        "prompt_interface": Middle(asks),
        "segmenter": Everything(),
        "data": samples[:3],
        "rewards": {"area": (MaskArea(0.5), 2)},
    }


@pytest.mark.slow
def test_a_run_of_objects_alone_is_recorded_and_continued_with_the_same_objects_only(trials, pieces, tmp_path):
    recipe, out = trials(max_steps=3, save_every=1), tmp_path / "run"
    whole = medground.train(recipe, out=tmp_path / "whole", **pieces)
    assert means(whole.folder, "area") == [0.5] * 3  # the whole image, as the segmenter object draws it
    assert set(read_metadata(whole.folder).objects) == {"prompt_interface", "segmenter", "data", "rewards.area"}
    assert read_metadata(whole.folder).samples == 3
    with pytest.raises(Interrupted, match=r"medground.train\('.*run', resume=True, ...\) with the same .*segmenter"):
        medground.train(recipe, out=out, **stop_after(1), **pieces)

    for key, how in [
        ("segmenter", "segmenter=OBJECT"),
        ("data", "data=OBJECT"),
        ("rewards", "rewards={'area': OBJECT}"),
    ]:
        fewer = {name: given for name, given in pieces.items() if name != key}
        with pytest.raises(RecipeError, match=rf"{key}.* is an object from Python.* must be given again") as error:
            medground.train(out, resume=True, **fewer)
        assert f"pass {how} in Python" in error.value.hint
        with pytest.raises(RunError, match=rf"began with the object .* as {key}.*, which is not given"):
            medground.train(recipe, "segmenter=box_fill", "prompt=box", out=out, resume=True, **fewer)
    others = {"segmenter": Everything(0.9), "data": pieces["data"][:2], "rewards": {"area": (MaskArea(0.6), 2)}}
    for key, other in others.items():
        with pytest.raises(RunError, match=rf"as {key}.* is not what the run in .* began with"):
            medground.train(out, resume=True, **{**pieces, key: other})
    with pytest.raises(RunError, match=r"began without an object as rewards\.more"):
        medground.train(out, resume=True, **{**pieces, "rewards": {**pieces["rewards"], "more": vowels}})
    with pytest.raises(RunError, match="made with another recipe"):
        medground.train(out, resume=True, **{**pieces, "rewards": {"area": (MaskArea(0.5), 3)}})

    again = medground.train(out, resume=True, **{**pieces, "rewards": {"area": MaskArea(0.5)}})
    assert (again.before, again.steps) == (1, 3)
    assert means(out, "area") == means(whole.folder, "area")
    assert [line["loss"] for line in read_events(out)] == [line["loss"] for line in read_events(whole.folder)]

    with pytest.raises(RecipeError, match=r"prompt_interface is an object from Python, Middle"):
        again.load(segmenter=pieces["segmenter"])
    with pytest.raises(RecipeError, match=r"segmenter is an object from Python, Everything"):
        medground.load(out, prompt_interface=pieces["prompt_interface"])
    pipeline = again.load(segmenter=pieces["segmenter"], prompt_interface=pieces["prompt_interface"])
    assert pipeline(pieces["data"][0].query).mask.data.all()


@pytest.mark.slow
def test_the_command_line_refuses_a_run_of_objects_and_says_what_to_type(trials, tiny, tmp_path, capsys):
    out = tmp_path / "run"
    medground.train(trials(max_steps=1), out=out, segmenter=Everything(), rewards={"mine": vowels})
    image = next((tiny / "data").rglob("*.png"))

    def call(*words):
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        return left.value.code, capsys.readouterr().err

    for words in (["ground", image, "Where?", "--recipe", out], ["train", out, "--resume"]):
        code, text = call(*words)
        assert code == 2
        assert "segmenter is an object from Python, Everything, and must be given again" in text
        assert "set segmenter=NAME" in text
    replaced = ["segmenter=box_fill", "prompt=box"]
    code, text = call("ground", image, "Where?", *replaced, "--recipe", out, "--out", tmp_path / "grounded")
    assert code == 0, text
    code, text = call("train", out, *replaced, "rewards.mine=null", "--resume")
    assert code == 1
    assert "began with the object" in text and "which is not given" in text


@pytest.mark.slow
def test_a_reasoner_object_is_trained(trials, tiny, tmp_path):
    reasoner = sys.modules["medground_trials"].trial_vlm(checkpoint=str(tiny / "model"), train_vision=True)
    before = {name: value.clone() for name, value in reasoner.model.state_dict().items()}
    run = medground.train(trials(max_steps=1), out=tmp_path / "run", reasoner=reasoner)
    after = reasoner.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in after)
    assert read_metadata(run.folder).objects["reasoner"].name.startswith("medground_qwen.")
    with pytest.raises(RecipeError, match="reasoner is an object from Python"):
        run.load()
    assert run.load(reasoner=reasoner).reasoner is reasoner


def test_several_processes_of_the_command_cannot_share_an_object(trials, tmp_path, monkeypatch):
    recipe = {**trials(), "engine": {"name": "deepspeed", "processes": 2}}
    with pytest.raises(RunError, match=r"2 processes of medground train cannot share the object rewards.mine") as error:
        medground.train(recipe, out=tmp_path / "run", rewards={"mine": vowels})
    assert "torchrun --nproc-per-node 2 SCRIPT.py" in error.value.hint


@pytest.mark.slow
def test_validation_takes_its_split_of_the_samples_that_are_given(trials, tiny, tmp_path):
    samples = medground.open_dataset(tiny / "data")
    split = samples.splits[0]
    other = next(name for name in samples.splits if name != split)
    recipe = trials(max_steps=1) | {"validate": {"every": 1, "split": other}}
    run = medground.train(recipe, f"data.split={split}", out=tmp_path / "run", data=samples)
    assert run.metrics["eval/answers/n"] == samples.splits.count(other)
    assert read_metadata(run.folder).samples == samples.splits.count(split)


@pytest.mark.slow
def test_a_pipeline_of_objects_is_evaluated_on_samples(tmp_path):
    toy = medground.load("infer/toy")
    pipeline = medground.Pipeline(toy.reasoner, toy.prompt_interface, Everything())
    samples = [_sample("a"), _sample("b", 200)]
    result = medground.evaluate(pipeline, data=samples, conditions=["answer", "oracle_box"], out=tmp_path / "out")
    assert result.summary.samples == 2
    assert set(result.summary.conditions) == {"answer", "oracle_box"}
    assert result.mean("dice_joint", "oracle_box") is None or result.mean("iou") is not None
    written = json.loads((tmp_path / "out" / "run.json").read_text())
    assert set(written["objects"]) == {"reasoner", "prompt_interface", "segmenter", "data"}
    with pytest.raises(RunError, match="holds another evaluation"):
        medground.evaluate(pipeline, data=samples[:1], conditions=["answer"], out=tmp_path / "out", resume=True)


def test_an_evaluation_of_a_pipeline_reuses_what_it_has_built_and_overrides_replace_an_object():
    pipeline = medground.load("infer/toy", segmenter=Everything())
    reasoner = pipeline.reasoner
    generate, calls = reasoner.generate, []
    reasoner.generate = lambda *arguments: calls.append(1) or generate(*arguments)
    medground.evaluate(pipeline, data=[_sample("a")])
    assert (calls, pipeline.segmenter._calls) == ([1], 1)
    medground.evaluate(pipeline, "segmenter=ellipse", data=[_sample("a")])
    assert (calls, pipeline.segmenter._calls) == ([1, 1], 1)
