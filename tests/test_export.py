"""An exported run is what transformers and peft load as it is; its card says what the run recorded."""

import json
import re
import resource

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs transformers")

from click.testing import CliRunner  # noqa: E402

import medground  # noqa: E402
from medground.cli import medground as command  # noqa: E402
from medground.errors import InputError, RunError  # noqa: E402
from medground.runs.files import lock_folder  # noqa: E402
from medground.runs.folder import read_events, read_metadata  # noqa: E402
from medground.training.export import export  # noqa: E402
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
        "Research software, not a medical device", "The licence. That of the starting checkpoint",
        "a local folder called model",
    ):  # fmt: skip
        assert said in card, said
    assert str(tmp_path) not in card and str(tiny) not in card, "where files lay is nobody's business"
    assert "license:" not in card
    last = read_events(folder)[-1]
    assert re.search(rf"\| loss \| {re.escape(format(last['loss'], '.4g'))} \|", card)


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


def test_the_command(run, tmp_path):
    folder = run()
    result = CliRunner().invoke(command, ["export", str(folder), "--to", str(tmp_path / "out"), "--json"])
    assert json.loads(result.stdout) == {"folder": str(tmp_path / "out"), "step": 2, "adapter": False}
