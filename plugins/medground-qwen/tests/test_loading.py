"""A damaged checkpoint folder is refused in one sentence that names the fault."""

import json
import shutil

import pytest
from qwen_inputs import conversation

from medground.errors import InputError, PluginError, RecipeError

SPOILT = {
    "a processor's configuration that is no JSON": (
        lambda folder: (folder / "processor_config.json").write_text("{"),
        "processor_config.json is damaged",
    ),
    "a tokenizer that is a git-LFS pointer": (
        lambda folder: (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "tokenizer.json is a git-LFS pointer",
    ),
    "a tokenizer that is none": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "tokenizer.json is wrong: Exception",
    ),
    "a template that is none": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% for m in %}"),
        "the chat template of folder is wrong: TemplateSyntaxError",
    ),
    "a configuration that is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "config.json is no configuration",
    ),
    "a configuration without sizes": (
        lambda folder: (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_vl", "text_config": 3})),
        "cannot be loaded, its",
    ),
    "weights that lack one": (lambda folder: without_one(folder), "lacks 1 of the model's weights, such as"),
    "weights of another shape": (lambda folder: of_another_shape(folder), "in shape ["),
    "an index that names a shard that is not there": (
        lambda folder: sharded(folder),
        "names model-00002-of-00002.safetensors, which is not",
    ),
}


def without_one(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if "mlp" in name)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def of_another_shape(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    save_file(weights | {name: weights[name][..., :1].clone()}, folder / "model.safetensors", metadata={"format": "pt"})


def sharded(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture
def folder(checkpoints, tmp_path):
    return shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "folder")


def load(folder, **arguments):
    from medground_qwen import factories

    return factories.qwen3_vl(checkpoint=str(folder), **{"dtype": "float32", "device": "cpu"} | arguments)


@pytest.mark.parametrize("name", SPOILT)
def test_each_damaged_folder_is_refused_in_one_sentence(folder, name):
    spoil, sentence = SPOILT[name]
    spoil(folder)
    with pytest.raises(InputError) as caught:
        load(folder)
    assert sentence in caught.value.message and "folder" in caught.value.message
    assert caught.value.hint and "\n" not in str(caught.value)


def test_a_chat_template_in_the_tokenizers_configuration_is_read(folder):
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="has no chat template"):
        load(folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    assert load(folder).processor.chat_template == template


def test_attention_that_is_not_installed_names_its_package(folder):
    with pytest.raises(PluginError, match="needs the package flash-attn") as caught:
        load(folder, attention="flash_attention_2")
    assert caught.value.hint.startswith("pip install flash-attn")


@pytest.mark.parametrize("arguments", [{"device": "cpu", "dtype": "bfloat16"}, {"device": "auto", "dtype": "float32"}])
def test_flash_attention_is_refused_where_it_cannot_run(folder, arguments, monkeypatch):
    from medground_qwen import checkpoint

    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(RecipeError, match="runs on CUDA in 16 bits"):
        load(folder, attention="flash_attention_2", **arguments)


@pytest.mark.parametrize("share", [True, False])
def test_eager_attention_answers_as_sdpa_does(folder, share):
    import torch

    both = [load(folder, attention=attention, share=share) for attention in ("eager", "sdpa")]
    groups = [reasoner.group(conversation(), [[5, 9, 30], [8]]) for reasoner in both]
    with torch.no_grad():
        eager, sdpa = (reasoner.policy(group)[0] for reasoner, group in zip(both, groups, strict=True))
    torch.testing.assert_close(eager, sdpa, atol=1e-4, rtol=1e-4)
