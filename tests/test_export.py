"""An exported run is what transformers and peft load as it is; its card says what the run recorded."""

import json
import re
import resource
import shutil

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs transformers")

import yaml  # noqa: E402
from click.testing import CliRunner  # noqa: E402

import medground  # noqa: E402
from medground.cli import medground as command  # noqa: E402
from medground.errors import InputError, RecipeError, RunError  # noqa: E402
from medground.recipe import resolve  # noqa: E402
from medground.runs.files import lock_folder  # noqa: E402
from medground.runs.folder import read_events, read_metadata  # noqa: E402
from medground.training.export import export  # noqa: E402
from medground.training.exported_recipe import exported_recipe  # noqa: E402
from medground.training.model_card import Declared, _front_matter, _origins  # noqa: E402
from medground.training.run import train  # noqa: E402


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Folders of tiny models by the name of their reasoner."""
    from medground_qwen import tiny as make

    folder, words = tmp_path_factory.mktemp("models") / "qwen2_5", make.tokenizer()
    kit = make.processor("qwen2_5_vl", words, patch=8, max_side=64)
    make.save(folder, make.model("qwen2_5_vl", words, patch=8, hidden=64, layers=2), kit)
    return {"qwen2_5_vl": folder, "qwen3_vl": tiny / "model"}


@pytest.fixture
def run(trials, models, tmp_path):
    """``run(name, rank)``: the folder of a run that changed its weights, or an adapter of some rank."""

    def make(name="qwen3_vl", rank=0, **more):
        reasoner = {"name": name, "checkpoint": str(models[name]), "dtype": "float32", "lora_rank": rank}
        recipe = trials("sft", max_steps=2, learning_rate=1e-2, reasoner=reasoner)
        return train({**recipe, **more}, out=tmp_path / "run").folder

    return make


def logits(model, folder, size=48):
    """Of a fixed conversation, with the processor in a folder."""
    from PIL import Image

    processor = transformers.AutoProcessor.from_pretrained(folder)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which region?"}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.new("RGB", (size, size), (90, 20, 150))], return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits


def of_run(folder):
    """Logits of the run's result, as medground loads it."""
    reasoner = medground.load(folder).reasoner
    return logits(reasoner.model, folder / "checkpoints" / "step-00000002" / "model")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.lane
def test_transformers_loads_what_was_trained(run, models, tmp_path, name, rank):
    folder = run(name, rank)
    done = export(folder, tmp_path / "out")
    assert (done.step, done.adapter) == (2, False)
    model = transformers.AutoModelForImageTextToText.from_pretrained(done.folder)
    found, expected = logits(model, done.folder), of_run(folder)
    if rank == 0:
        assert torch.equal(found, expected)
    else:
        assert torch.allclose(found, expected, atol=1e-5)
        assert not (done.folder / "adapter_config.json").exists()
    start = transformers.AutoModelForImageTextToText.from_pretrained(models[name])
    assert not torch.allclose(found, logits(start, models[name]), atol=1e-2), "it learnt nothing"


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated"
)  # peft asks transformers by its old name
@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.lane
def test_peft_loads_an_adapter_that_stays_one(run, models, tmp_path, name):
    from peft import PeftModel

    folder = run(name, 2)
    done = export(folder, tmp_path / "out", adapter="separate")
    assert done.adapter
    assert not (done.folder / "model.safetensors").exists()
    base = transformers.AutoModelForImageTextToText.from_pretrained(models[name])
    found = logits(PeftModel.from_pretrained(base, done.folder), done.folder)
    assert torch.allclose(found, of_run(folder), atol=1e-6)
    assert "library_name: peft" in (done.folder / "README.md").read_text()


@pytest.mark.slow
def test_the_card_says_what_was_recorded_and_no_more(run, tiny, tmp_path):
    lines = [json.loads(line) for line in (tiny / "data" / "manifest.jsonl").read_text().splitlines()]
    split = tiny / "data" / "halves.jsonl"
    split.write_text(
        "".join(json.dumps({**line, "split": "val" if i < 2 else "train"}) + "\n" for i, line in enumerate(lines))
    )
    folder = run(
        data={"path": str(split), "split": "train"},
        validate={"every": 2, "metric": "iou"},
        sampling={"max_completion_length": 4},
    )
    export(folder, tmp_path / "out")
    card, metadata = (tmp_path / "out" / "README.md").read_text(), read_metadata(folder)
    (measured,) = read_events(folder, "validate")
    for said in (
        metadata.recipe_sha256, metadata.data_sha256, metadata.processor_sha256, metadata.checkpoint_rule,
        f"torch {torch.__version__.partition('+')[0]}", "2 of 2, 0 of them skipped",
        f"| iou | {measured['eval/iou']:.4g} | 2 |", "so the figures flatter the model",
        f"{measured['eval/grounded_ratio']:.1%} of the answers had no fault",
        "Research software, not a medical device", "those of the starting checkpoint and of the data bind this model",
        "a local folder called model",
        "| base model | not known | – |", "| data | not known | – |", "| licence | not known | – |",
        "Frame `permille`, order `xy`", "--recipe THIS_FOLDER prompt_interface.template=VALUE segmenter=NAME",
    ):  # fmt: skip
        assert said in card, said
    assert str(tmp_path) not in card and str(tiny) not in card, "where files lay is nobody's business"
    assert not re.search("^(license|base_model|datasets):", card, re.MULTILINE)
    last = read_events(folder)[-1]
    assert re.search(rf"\| loss \| {re.escape(format(last['loss'], '.4g'))} \|", card)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(
    ("rank", "adapter", "argument"),
    [(0, "merge", "checkpoint"), (2, "merge", "checkpoint"), (2, "separate", "adapter")],
)
@pytest.mark.lane
def test_the_folder_answers_as_the_run_wherever_it_lies(run, tiny, models, tmp_path, rank, adapter, argument):
    folder = run(rank=rank, prompt_interface="bbox", segmenter="ellipse", sampling={"max_completion_length": 8}, seed=3)
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    shutil.move(export(folder, tmp_path / "out", adapter=adapter).folder, elsewhere / "moved")
    text = (elsewhere / "moved" / "recipe.yaml").read_text()
    assert str(tmp_path) not in text and str(tiny) not in text and "checkpoints" not in text
    recipe = yaml.safe_load(text)
    assert recipe["reasoner"][argument] == "./" and ("lora_rank" in recipe["reasoner"]) == (adapter == "separate")
    assert recipe["seed"] == 3 and recipe["segmenter"] == {"name": "ellipse"} and not {"data", "sft"} & recipe.keys()
    base = [f"reasoner.checkpoint={models['qwen3_vl']}"] if adapter == "separate" else []
    image = tiny / "data" / "images" / sorted(path.name for path in (tiny / "data" / "images").iterdir())[0]
    (tmp_path / "run").rename(tmp_path / "gone")
    said = medground.load(elsewhere / "moved", *base)(image, "Which region?").completion.text
    assert said and said == medground.load(tmp_path / "gone")(image, "Which region?").completion.text
    asked = ["ground", str(image), "Which region?", "--recipe", str(elsewhere / "moved"), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(command, [*asked, *base, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["text"] == said


@pytest.mark.slow
def test_what_lay_on_the_machine_must_be_given_again(run, tiny, tmp_path):
    """The base of an adapter, and the user's own template."""
    moved = export(run(rank=2), tmp_path / "out", adapter="separate").folder
    with pytest.raises(RecipeError, match=r"reasoner\.checkpoint must be given"):
        _ = medground.load(moved).reasoner
    with pytest.raises(RecipeError, match=r"prompt_interface\.template must be given"):
        _ = medground.load(moved).prompt_interface
    assert medground.load(moved, f"prompt_interface.template={tiny / 'template.txt'}").prompt_interface


@pytest.mark.slow
def test_the_card_holds_what_the_user_declares(run, tmp_path):
    stated = {"base_model": "Qwen/Qwen3-VL-4B-Instruct", "data": "phantoms | drawn by us", "licence": "cc-by-nc-4.0"}
    card = (export(run(), tmp_path / "out", **stated).folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["base_model"]) == ("cc-by-nc-4.0", "Qwen/Qwen3-VL-4B-Instruct")
    assert "datasets" not in front, "the hub wants an id there, and this is words"
    assert "| data | phantoms \\| drawn by us | who exported it |" in card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [("licence", "Apache 2"), ("licence", ""), ("data", "two\nlines"), ("base_model", "  ")]
)
def test_a_declaration_that_no_card_can_hold_is_refused(run, tmp_path, name, value):
    with pytest.raises(InputError, match=f"{name} is no"):
        export(run(), tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frame", "counted"),
    [
        ({"kind": "pixel", "size": [476, 644], "order": "xy"}, "one of 480 x 640 px is resized to 476 x 644 px"),
        ({"kind": "unit", "size": [480, 640], "order": "yx"}, "1 the right or lower one; y comes before x"),
        (None, "Not known: the run did not record it"),
    ],
)
def test_the_card_says_what_the_numbers_count(run, tmp_path, frame, counted):
    folder = run()
    record = json.loads((folder / "run.json").read_text())
    assert record["frame"] == {"kind": "permille", "size": record["frame"]["size"], "order": "xy"}
    (folder / "run.json").write_text(json.dumps({**record, "frame": frame}))
    assert counted in (export(folder, tmp_path / "out").folder / "README.md").read_text()


def test_what_the_hub_holds_is_named_without_being_declared():
    """Checkpoint and data of a run that named hub ids, which this machine cannot fetch."""
    recipe = resolve(
        {
            "reasoner": {"name": "qwen3_vl", "checkpoint": "Qwen/Qwen3-VL-4B-Instruct", "revision": "abc"},
            "data": {"path": "lexor/U-MRG-14K"},
        }
    )
    assert _front_matter(recipe, Declared()) == [
        'base_model: "Qwen/Qwen3-VL-4B-Instruct"', 'datasets: ["lexor/U-MRG-14K"]',
    ]  # fmt: skip
    assert _origins(recipe, Declared(base_model="mine"))[:2] == [
        ("base model", "Qwen/Qwen3-VL-4B-Instruct", "the run"), ("base model", "mine", "who exported it"),
    ]  # fmt: skip
    assert exported_recipe(recipe, "adapter")["reasoner"]["revision"] == "abc"
    assert "revision" not in exported_recipe(recipe, "checkpoint")["reasoner"], "the folder has no revisions"


@pytest.mark.slow
def test_a_folder_that_holds_something_is_left_alone(run, tmp_path):
    folder, out = run(), tmp_path / "out"
    out.mkdir()
    export(folder, out)
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(InputError, match="is not empty"):
        export(folder, out)
    assert sorted(path.name for path in out.iterdir()) == before
    with pytest.raises(InputError, match="is not the folder of a run"):
        export(out, tmp_path / "other")
    weights = folder / "checkpoints" / "step-00000002" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"step-00000002 is damaged: model/model\.safetensors is not what was written"):
        export(folder, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir() if "other" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_disk_that_is_full_is_named_and_nothing_is_left(run, tmp_path, rank):
    """The operating system refuses to write a file beyond a limit."""
    folder, limits = run(rank=rank), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"out cannot be written: .*File too large"):
            export(folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_a_second_export_to_the_same_folder_is_refused(run, tmp_path):
    folder = run()
    lock = lock_folder(tmp_path / ".out.export")
    with pytest.raises(RunError, match=r"another process writes to .*\.out\.export"):
        export(folder, tmp_path / "out")
    lock.release()
    (tmp_path / ".out.export" / "half").write_text("left by a killed export")
    assert "half" not in [path.name for path in export(folder, tmp_path / "out").folder.iterdir()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_run_without_a_checkpoint_has_nothing_to_export(trials, tmp_path):
    from medground.errors import Interrupted

    with pytest.raises(Interrupted):
        train(trials("sft"), out=tmp_path / "run", stopped=lambda: True)
    with pytest.raises(RunError, match="has no checkpoint yet"):
        export(tmp_path / "run", tmp_path / "out")


@pytest.mark.slow
def test_the_command(run, tmp_path):
    folder = run()
    result = CliRunner().invoke(command, ["export", str(folder), "--to", str(tmp_path / "out"), "--json"])
    assert json.loads(result.stdout) == {"folder": str(tmp_path / "out"), "step": 2, "adapter": False}
