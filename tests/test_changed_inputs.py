"""Work counts as done only while all that feeds it has the same content: what has changed is done again, or refused by name."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from medground_toy import phantoms
from PIL import Image

import medground
from medground.cli import main
from medground.data.open_dataset import open_dataset
from medground.errors import InputError, Interrupted, RunError
from medground.images.read import read_mask
from medground.images.rle import decode_rle
from medground.pipeline.cache import StageCache
from medground.recipe import resolve
from medground.registry import discovery, loading
from medground.runs.files import content_sha256
from medground.runs.inputs import INPUTS, RunInputs, component_inputs, sample_inputs
from medground.sweeps.run import sweep

WEIGHED = """
from pathlib import Path
import numpy as np
from medground.hookspecs import hookimpl
from medground.types import Mask

class Weighed:
    accepts = frozenset({"box", "points", "negative_points"})
    def __init__(self, *, checkpoint: str):
        self.rows = int(Path(checkpoint).read_text())
    def segment(self, image, prompts):
        data = np.zeros(image.shape[:2], bool)
        data[: self.rows] = True
        return [Mask(data=data, score=1.0) for _ in prompts]

@hookimpl
def register_segmenters(register):
    register("weighed", Weighed)
"""


@pytest.fixture
def weights(site, install, tmp_path):
    """A segmenter's checkpoint: the number of rows that its mask covers."""
    install(site, "medground-weighed", {"segmenter.weighed": "medground_weighed"}, WEIGHED)
    path = tmp_path / "weights.pth"
    path.write_text("3")
    return path


@pytest.fixture
def data(tmp_path):
    phantoms.write(tmp_path / "data", phantoms.samples(4, seed=1, size=(64, 64)))
    return tmp_path / "data"


def invert(path):
    with Image.open(path) as image:
        pixels = 255 - np.asarray(image)
    Image.fromarray(pixels).save(path)


def run(folder, out, *more):
    with pytest.raises(SystemExit) as ended:
        main(["run", str(folder), "--question", "Which region is bright?", "--out", str(out), *map(str, more)])
    assert ended.value.code == 0
    return {line["id"]: line for line in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in (1, 2):
        pixels = np.full((50, 60, 3), 30, np.uint8)
        pixels[10:20, 10 * number : 10 * number + 15] = 220
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def asked(monkeypatch):
    """The ids of the queries that pipelines answer."""
    ids, batch = [], medground.Pipeline.batch
    monkeypatch.setattr(
        medground.Pipeline, "batch", lambda self, queries: ids.extend(q.id for q in queries) or batch(self, queries)
    )
    return ids


class TestRunDoesAgain:
    def test_an_image_that_was_replaced_under_its_name(self, pictures, tmp_path, asked):
        before = run(pictures, tmp_path / "out")
        Image.open(pictures / "2.png").transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(pictures / "2.png")
        after = run(pictures, tmp_path / "out")
        assert asked == ["1", "2", "2"]
        assert after["1"] == before["1"] and after["2"]["box"] != before["2"]["box"]

    @pytest.mark.slow
    def test_everything_after_other_weights_of_the_same_name(self, pictures, weights, tmp_path, asked):
        chosen = ("segmenter=weighed", f"segmenter.checkpoint={weights}")
        assert {line["mask"]["area"] for line in run(pictures, tmp_path / "out", *chosen).values()} == {3 * 60}
        weights.write_text("5")
        assert {line["mask"]["area"] for line in run(pictures, tmp_path / "out", *chosen).values()} == {5 * 60}
        run(pictures, tmp_path / "out", *chosen)
        assert len(asked) == 4

    def test_everything_after_another_version_of_a_plugin(self, pictures, weights, site, install, tmp_path, asked):
        chosen = ("segmenter=weighed", f"segmenter.checkpoint={weights}")
        run(pictures, tmp_path / "out", *chosen)
        shutil.rmtree(site / "medground_weighed-1.0.dist-info")
        install(site, "medground-weighed", {"segmenter.weighed": "medground_weighed"}, version="1.1")
        discovery._scan.cache_clear()
        loading._load.cache_clear()
        run(pictures, tmp_path / "out", *chosen)
        assert len(asked) == 4

    def test_everything_after_another_template_of_the_same_name(self, pictures, tmp_path, asked):
        template = tmp_path / "template.txt"
        for text in ("{Question} Say where.", "{Question} Point."):
            template.write_text(text)
            run(pictures, tmp_path / "out", f"prompt_interface.template={template}")
        assert len(asked) == 4

    @pytest.mark.parametrize("kind", ["mask.png", "overlay.png", "json"])
    def test_a_result_whose_file_is_gone(self, kind, pictures, tmp_path, asked):
        run(pictures, tmp_path / "out")
        (tmp_path / "out" / "results" / f"1.{kind}").unlink()
        lines = run(pictures, tmp_path / "out")
        assert asked == ["1", "2", "1"]
        assert read_mask(tmp_path / "out" / "results" / "1.mask.png").sum() == lines["1"]["mask"]["area"]

    def test_an_image_that_changes_while_it_is_answered(self, pictures, tmp_path, asked, monkeypatch):
        import medground.cli.run as module

        opened, read = [], module.open_image

        def replace_after_reading(path, view):
            image = read(path, view)
            if not opened:
                invert(path)
            opened.append(path)
            return image

        monkeypatch.setattr(module, "open_image", replace_after_reading)
        run(pictures, tmp_path / "out")
        run(pictures, tmp_path / "out")
        run(pictures, tmp_path / "out")
        assert asked == ["1", "2", "1"]


def recipe(data, **more):
    return {
        "reasoner": "toy",
        "prompt_interface": "bbox_points",
        "segmenter": "ellipse",
        "data": {"path": str(data)},
        "evaluate": {"n_boot": 20, "batch_size": 1, "pictures": 0},
        **more,
    }


def begun(given, out, **more):
    """Begin an evaluation; it stops after its first sample."""
    turns = iter([False, True])
    with pytest.raises(Interrupted):
        medground.evaluate(given, out=out, stopped=lambda: next(turns), **more)


def first(data):
    return json.loads((data / "manifest.jsonl").read_text().splitlines()[0])


class TestEvaluationRefuses:
    @pytest.mark.parametrize("part", ["image", "mask"])
    def test_an_image_or_mask_that_was_replaced_under_its_name(self, part, data, tmp_path):
        begun(recipe(data), tmp_path / "out")
        line = first(data)
        original = (data / line[part]).read_bytes()
        invert(data / line[part])
        with pytest.raises(RunError, match=rf"the {part} of sample '{line['id']}' is not what it was when the run in"):
            medground.evaluate(recipe(data), out=tmp_path / "out", resume=True)
        (data / line[part]).write_bytes(original)
        assert medground.evaluate(recipe(data), out=tmp_path / "out", resume=True).before == 1

    def test_another_question_under_the_same_id(self, data, tmp_path):
        begun(recipe(data), tmp_path / "out")
        manifest = data / "manifest.jsonl"
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]
        lines[2]["question"] = "Where else?"
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(RunError, match=f"the line of sample '{lines[2]['id']}' is not what it was"):
            medground.evaluate(recipe(data), out=tmp_path / "out", resume=True)

    def test_other_weights_of_the_same_name(self, data, weights, tmp_path):
        given = recipe(data, segmenter={"name": "weighed", "checkpoint": str(weights)})
        begun(given, tmp_path / "out")
        weights.write_text("5")
        with pytest.raises(RunError, match=r"segmenter\.checkpoint is not what it was when the run in"):
            medground.evaluate(given, out=tmp_path / "out", resume=True)

    @pytest.mark.slow
    def test_other_predictions_of_the_same_name(self, data, tmp_path):
        medground.evaluate(recipe(data), out=tmp_path / "answers")
        begun(recipe(data), tmp_path / "out", predictions=tmp_path / "answers" / "samples.jsonl")
        lines = (tmp_path / "answers" / "samples.jsonl").read_text()
        (tmp_path / "answers" / "samples.jsonl").write_text(lines.replace("answer>", "answer >"))
        with pytest.raises(RunError, match="the file of predictions is not what it was"):
            medground.evaluate(
                recipe(data), out=tmp_path / "out", resume=True, predictions=tmp_path / "answers" / "samples.jsonl"
            )

    def test_an_image_that_changes_while_it_is_answered(self, data, tmp_path):
        path = data / first(data)["image"]
        calls = []

        def stopped():
            calls.append(None)
            if len(calls) == 1:
                invert(path)
            return False

        with pytest.raises(RunError, match=r"the image of sample '.*' has changed since this run read it"):
            medground.evaluate(recipe(data), out=tmp_path / "out", stopped=stopped)
        assert (tmp_path / "out" / "samples.jsonl").exists() is False


@pytest.mark.slow
def test_an_evaluation_goes_on_without_a_line_that_was_taken_out(data, tmp_path):
    """Also what was answered with the help of the other samples is that of the data as it is now."""
    given = recipe(data)
    given["evaluate"] |= {"conditions": ["answer", "constant_box"]}
    manifest = data / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    turns = iter([False] * 6 + [True])
    with pytest.raises(Interrupted):
        medground.evaluate(given, out=tmp_path / "out", stopped=lambda: next(turns))
    manifest.write_text("".join(lines[1:]))
    done = medground.evaluate(given, out=tmp_path / "out", resume=True)
    fresh = medground.evaluate(given, out=tmp_path / "fresh")
    assert done.before == 3
    assert done.records == fresh.records and len(done.records) == 6


@pytest.mark.slow
def test_a_cache_holds_nothing_of_weights_that_were_replaced(data, weights, tmp_path):
    given = recipe(data, segmenter={"name": "weighed", "checkpoint": str(weights)})
    areas = []
    for rows in ("3", "5", "3"):
        weights.write_text(rows)
        result = medground.evaluate(given, store=StageCache(tmp_path / "store"))
        areas.append({int(decode_rle(record.answers[0].masks["joint"].rle).sum()) for record in result.records})
    assert areas == [{3 * 64}, {5 * 64}, {3 * 64}]


class TestSweepRefuses:
    def given(self, data, **variants):
        return recipe(data, variants=variants or {"a": {}, "b": {"segmenter": "box_fill", "prompt": "box"}})

    @pytest.mark.slow
    def test_an_image_that_was_replaced_under_a_trial_that_is_done(self, data, tmp_path):
        sweep(self.given(data), out=tmp_path / "out")
        line = first(data)
        invert(data / line["image"])
        with pytest.raises(RunError, match=f"the image of sample '{line['id']}' is not what it was"):
            sweep(self.given(data), out=tmp_path / "out", resume=True)

    @pytest.mark.slow
    def test_other_weights_under_a_trial_that_is_done(self, data, weights, tmp_path):
        given = self.given(data, a={"segmenter": {"name": "weighed", "checkpoint": str(weights)}})
        sweep(given, out=tmp_path / "out")
        weights.write_text("5")
        with pytest.raises(RunError, match=r"segmenter\.checkpoint is not what it was"):
            sweep(given, out=tmp_path / "out", resume=True)


def test_the_digest_of_a_file_is_that_of_its_newest_content(tmp_path):
    """Two writes of the same size may share one time of change."""
    path, digests = tmp_path / "file", set()
    for number in range(50):
        path.write_text(f"{number:04}")
        digests.add(content_sha256(path))
    assert len(digests) == 50


def test_files_count_by_their_content_and_hidden_ones_do_not(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "weights").write_text("1")
    given = resolve({"reasoner": {"name": "toy_vlm", "checkpoint": str(folder)}})
    before = component_inputs(given, "reasoner")
    assert set(before) == {"the plugin of all", "the plugin of reasoner", "reasoner.checkpoint/sub/weights"}
    (folder / ".DS_Store").write_text("a file browser was here")
    assert component_inputs(given, "reasoner") == before
    shutil.move(folder, tmp_path / "moved")
    moved = resolve({"reasoner": {"name": "toy_vlm", "checkpoint": str(tmp_path / "moved")}})
    assert component_inputs(moved, "reasoner") == before


def test_samples_from_python_count_by_all_that_they_hold(data):
    samples = list(open_dataset(data))
    before = sample_inputs(open_dataset(samples).entries)
    assert before == sample_inputs(open_dataset(list(open_dataset(data))).entries)
    samples[1].target.mask[0, 0] ^= True
    after = sample_inputs(open_dataset(samples).entries)
    assert [name for name in before if before[name] != after[name]] == [samples[1].query.id]


def parts(**names):
    return {name: {"line": word} for name, word in names.items()}


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (parts(a="1", b="2", c="3"), "sample 'c' was not there"),
        (parts(b="2", a="1"), "the order of the samples is not what it was"),
        (parts(a="1", b="x"), "the line of sample 'b' is not what it was"),
        (parts(x="1", b="2", c="1"), "sample 'c' was not there|sample 'x' was not there"),
        ({**parts(a="1"), "b": {"line": "2", "mask": "m"}}, "the mask of sample 'b' is not what it was"),
    ],
)
def test_samples_that_were_added_or_changed_are_named(now, sentence, tmp_path):
    RunInputs(samples=parts(a="1", b="2")).write(tmp_path)
    with pytest.raises(RunError, match=f"({sentence}) when the run in"):
        RunInputs(samples=now).require_same(tmp_path, "samples")


def test_samples_may_be_gone_where_that_is_accepted(tmp_path):
    RunInputs(samples=parts(a="1", b="2")).write(tmp_path)
    assert RunInputs(samples=parts(b="2")).require_same(tmp_path, "samples") == ["a"]
    assert RunInputs(samples=parts(b="2", c="3")).require_same(tmp_path, "samples") == ["a"], "up to a limit"
    with pytest.raises(RunError, match="sample 'a' is missing, which was there when the run in"):
        RunInputs(samples=parts(b="2")).require_same(tmp_path)
    (tmp_path / INPUTS).write_text('{"samples": 3}')
    with pytest.raises(RunError, match="is damaged"):
        RunInputs().require_same(tmp_path)


class TestTraining:
    """A run of four steps of two samples each, stopped after its second."""

    @pytest.fixture
    def stopped(self, trials, tiny, tmp_path):
        for name in ("data", "model"):
            shutil.copytree(tiny / name, tmp_path / name)
        given = trials(save_every=1)
        given["data"]["path"] = str(tmp_path / "data")
        given["reasoner"]["checkpoint"] = str(tmp_path / "model")
        done = []
        with pytest.raises(Interrupted):
            medground.train(
                given, out=tmp_path / "run", stopped=lambda: len(done) == 2, report=lambda *step: done.append(step)
            )
        return tmp_path

    @pytest.mark.slow
    @pytest.mark.parametrize("part", ["image", "mask"])
    def test_a_run_refuses_an_image_or_mask_that_was_replaced(self, part, stopped):
        line = first(stopped / "data")
        invert(stopped / "data" / line[part])
        with pytest.raises(RunError, match=rf"the {part} of sample '{line['id']}' is not what it was when the run in"):
            medground.train(stopped / "run", resume=True)

    @pytest.mark.slow
    def test_a_run_refuses_other_weights_to_start_from(self, stopped):
        path = stopped / "model" / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"reasoner\.checkpoint/model\.safetensors is not what it was when the run"):
            medground.train(stopped / "run", resume=True)

    @pytest.mark.slow
    def test_a_run_goes_on_without_a_bad_sample_by_the_command_that_its_error_names(self, trials, tiny, tmp_path):
        from medground.training.schedule import sample_indices

        shutil.copytree(tiny / "data", tmp_path / "data")
        given = trials(save_every=1)
        given["data"]["path"] = str(tmp_path / "data")
        (last,) = sample_indices(7, 1, samples=8, batch=2, seed=resolve(given).config.seed)
        bad = json.loads((tmp_path / "data" / "manifest.jsonl").read_text().splitlines()[last])
        Image.new("L", (64, 64)).save(tmp_path / "data" / bad["mask"])
        with pytest.raises(InputError, match=f"cannot be used: sample '{bad['id']}': the mask is empty") as error:
            medground.train(given, out=tmp_path / "run")
        command = error.value.hint.partition("empty its line: ")[2]
        assert subprocess.run(command, shell=True).returncode == 0
        done = medground.train(given, out=tmp_path / "run", resume=True)
        assert (done.before, done.steps) == (0, 4)

    @pytest.mark.slow
    def test_a_run_goes_on_without_a_sample_that_is_gone_from_the_manifest(self, trials, tiny, tmp_path):
        from medground.runs.folder import read_events
        from medground.training.schedule import sample_indices

        shutil.copytree(tiny / "data", tmp_path / "data")
        given = trials(save_every=1)
        given["data"]["path"] = str(tmp_path / "data")
        with pytest.raises(Interrupted, match="stopped after step 3 of 4"):
            medground.train(given, out=tmp_path / "run", stopped=lambda: len(read_events(tmp_path / "run")) >= 3)
        (last,) = sample_indices(7, 1, samples=8, batch=2, seed=resolve(given).config.seed)
        manifest = tmp_path / "data" / "manifest.jsonl"
        lines = manifest.read_text().splitlines()
        bad, lines[last] = json.loads(lines[last]), ""
        manifest.write_text("\n".join(lines) + "\n")
        done = medground.train(given, out=tmp_path / "run", resume=True)
        assert (done.before, done.steps) == (3, 4)
        (event,) = read_events(tmp_path / "run", "removed")
        assert event["samples"] == [bad["id"]]
        assert medground.train(given, out=tmp_path / "run", resume=True).before == 4

    @pytest.mark.slow
    def test_a_run_without_a_checkpoint_begins_anew_with_other_data(self, trials, tiny, tmp_path):
        shutil.copytree(tiny / "data", tmp_path / "data")
        given = trials(max_steps=1)
        given["data"]["path"] = str(tmp_path / "data")
        with pytest.raises(Interrupted):
            medground.train(given, out=tmp_path / "run", stopped=lambda: True)
        invert(tmp_path / "data" / first(tmp_path / "data")["image"])
        assert medground.train(given, out=tmp_path / "run", resume=True).before == 0
        assert medground.train(given, out=tmp_path / "run", resume=True).before == 1

    @pytest.mark.slow
    def test_a_sweep_refuses_another_image_under_a_training_that_is_done(self, trials, tiny, tmp_path):
        """The image is that of a sample that is trained on and not measured."""
        shutil.copytree(tiny / "data", tmp_path / "data")
        given = trials("sft", max_steps=1) | {"variants": {"a": {}}}
        given["data"] = {"path": str(tmp_path / "data"), "split": "train"}
        given["evaluate"] = {"split": "train", "limit": 1, "n_boot": 20, "pictures": 0}
        given["sampling"] = {"max_completion_length": 4}
        sweep(given, out=tmp_path / "out")
        last = open_dataset(tmp_path / "data", split="train").entries[-1]
        invert(last.image)
        with pytest.raises(RunError, match=r"the image of sample '.*' is not what it was when the run in .*trained/a"):
            sweep(given, out=tmp_path / "out", resume=True)
