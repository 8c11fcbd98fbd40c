"""Every family is opened as recipes open it: its frame declared, every tensor accounted for, an answer on the command line."""

import json
import shutil

import pytest
from medground_toy import phantoms
from PIL import Image

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

import other_families  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from family_checks import BATCH  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tested_families import NAMES  # noqa: E402

import medground  # noqa: E402
from medground.cli import medground as command  # noqa: E402
from medground.errors import InputError, PluginError, RecipeError  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(text) for text in other_families.WARNINGS]
WEIGHTS = "model.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_answers_a_question_on_the_command_line(families, name, tmp_path):
    (sample,) = phantoms.samples(1, seed=0, size=(48, 40))
    Image.fromarray(sample.query.image).save(tmp_path / "scan.png")
    given = other_families.section(name, families(name))
    overrides = [f"reasoner.{key}={value}" for key, value in given.items()] + ["sampling.max_completion_length=8"]
    result = CliRunner().invoke(
        command,
        [
            "ground",
            str(tmp_path / "scan.png"),
            "Where?",
            "--out",
            str(tmp_path / "out"),
            "--recipe",
            "infer/toy",
            "--json",
            *overrides,
        ],
    )
    assert result.exit_code in (0, 1), result.output  # 1: an answer in which nothing can be read
    assert "medground has a bug" not in result.output
    assert json.loads(result.stdout)["fault"], "random weights write nothing that can be read"


@pytest.mark.parametrize("name", NAMES)
def test_its_numbers_count_what_is_declared(families, name):
    size = BATCH[0][0]["content"][0]["image"].shape[:2]
    if name in other_families.NAMED:
        own = other_families.reasoner(name, families(name)).frame(size)
        assert (own.kind, own.order) == ({"qwen2_5_vl": "pixel", "qwen3_vl": "permille"}[name], "xy")
        return
    own = other_families.reasoner(name, families(name), frame="unit", order="yx").frame(size)
    assert (own.kind, own.order) == ("unit", "yx")
    arguments = other_families.section(name, families(name))
    del arguments["frame"]
    with pytest.raises(RecipeError, match="missing a required argument: 'frame'") as caught:
        medground.build("reasoner", arguments.pop("name"), **arguments)
    assert caught.value.hint == "give frame: pixel or permille or unit"


def parts_of(tensors):
    """Return one tensor of each part of a model: towers, projectors, language model, head."""
    parts = {}
    for key in sorted(tensors):
        parts.setdefault(".".join(key.split(".")[:2]), key)
    return list(parts.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_used_and_none_is_made_up(families, name, tmp_path):
    """What was loaded is saved as it was; a tensor that any part lacks, or one too many, is named."""
    folder = tmp_path / "folder"
    shutil.copytree(families(name), folder)
    tensors = load_file(folder / WEIGHTS)
    other_families.reasoner(name, folder).save(tmp_path / "again")
    saved = load_file(tmp_path / "again" / WEIGHTS)
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[key], tensors[key]) for key in tensors)
    for key in parts_of(tensors):
        save_file(
            {other: value for other, value in tensors.items() if other != key}, folder / WEIGHTS, {"format": "pt"}
        )
        with pytest.raises(InputError, match=r"folder lacks \d+ of the model's weights, such as"):
            other_families.reasoner(name, folder)
    save_file({**tensors, "model.policy.extra": torch.zeros(1)}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(InputError, match=r"holds 1 that the model does not have, such as \S*policy\.extra"):
        other_families.reasoner(name, folder)


def test_a_processor_s_missing_package_is_named(families, monkeypatch):
    """SmolVLM's processor imports num2words, which transformers does not bring."""
    folder = families("smolvlm")
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(PluginError, match="num2words") as caught:
        other_families.reasoner("smolvlm", folder)
    assert "pip install num2words" in caught.value.hint
