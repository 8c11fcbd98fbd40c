"""A damaged checkpoint folder is refused in one sentence that names the fault."""

import json
import os
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
    "weights that the model does not have": (
        lambda folder: with_others(folder),
        "holds 1 that the model does not have, such as policy.extra",
    ),
    "weights that are NaN": (lambda folder: with_nan(folder), "holds NaN or infinity in"),
    "code in JSON escapes": (
        lambda folder: insert(folder, '"auto\\u005fmap": {"AutoModel": "evil.Model"}'),
        "has 'auto_map'",
    ),
    "an attention of a repository": (
        lambda folder: insert(folder, '"_attn_implementation": "evil/kernel"'),
        "which would fetch code",
    ),
    "an attention of a repository, for a part": (
        lambda folder: insert(folder, '"_attn\\u005fimplementation": {"text_config": "evil/kernel"}'),
        "which would fetch code",
    ),
    "ten million layers": (
        lambda folder: insert(folder, '"x": {"num_hidden_layers": 10000000}'),
        "has 'x.num_hidden_layers': 10000000, which no model of 80 tensors has",
    ),
    "quantised weights": (
        lambda folder: insert(folder, '"quantization_config": {"quant_method": "mxfp4"}'),
        "has quantization_config",
    ),
    "a configuration that is a pipe": (lambda folder: pipe(folder / "generation_config.json"), "is no regular file"),
    "a shard outside the folder": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "../b.safetensors"}}'
        ),
        "names ../b.safetensors, which is not in the folder",
    ),
    "patches of no pixels": (lambda folder: of_pixels(folder, patch_size=0), "has patch_size: 0"),
    "images enlarged without bound": (
        lambda folder: of_pixels(folder, size={"shortest_edge": 10**9, "longest_edge": 10**9}),
        "edge: 1000000000, which no released checkpoint has",
    ),
    "a template without an image": (
        lambda folder: (folder / "chat_template.jinja").write_text("hello"),
        "cannot answer",
    ),
    "a template that fills the memory": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ 'a' * 10 ** 10 }}"),
        "is wrong: MemoryError",
    ),
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


def change(folder, changed):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file(changed(weights), folder / "model.safetensors", metadata={"format": "pt"})


def with_others(folder):
    import torch

    change(folder, lambda weights: weights | {"policy.extra": torch.ones(1)})


def with_nan(folder):
    change(folder, lambda weights: {name: value * float("nan") for name, value in weights.items()})


def insert(folder, text):
    path = folder / "config.json"
    path.write_text(path.read_text().replace("{", "{" + text + ",", 1))


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def of_pixels(folder, **settings):
    path = folder / "processor_config.json"
    content = json.loads(path.read_text())
    content["image_processor"] |= settings
    path.write_text(json.dumps(content))


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


def test_attention_from_python_is_one_of_ours(folder):
    with pytest.raises(RecipeError, match="there is no attention 'evil/kernel'"):
        load(folder, attention="evil/kernel")


@pytest.mark.parametrize(
    ("kind", "written"),
    [("qwen2_5_vl", "reasoner.name=qwen2_5_vl"), ("gemma3", "reasoner.name=hf_vlm and reasoner.frame=")],
)
def test_a_model_of_another_family_names_the_reasoner_that_opens_it(folder, kind, written):
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(InputError, match=f"is a {kind} model") as caught:
        load(folder)
    assert written in caught.value.hint


@pytest.mark.slow
def test_a_template_that_does_not_end_is_ended(folder):
    (folder / "chat_template.jinja").write_text(
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    )
    with pytest.raises(InputError, match="the chat template of folder takes more than 5 s"):
        load(folder)
    load(shutil.copytree(toy_vlm(), folder.with_name("good")))


def toy_vlm():
    from medground_qwen import factories

    return os.path.join(os.path.dirname(factories.__file__), "toy_vlm")


def test_templates_render_as_transformers_renders_them(folder):
    reasoner = load(folder)
    messages = conversation()
    texts = [
        [{"type": "image"} if part["type"] == "image" else part for part in turn["content"]]
        if isinstance(turn["content"], list)
        else [{"type": "text", "text": turn["content"]}]
        for turn in messages
    ]
    turns = [{"role": turn["role"], "content": content} for turn, content in zip(messages, texts, strict=True)]
    expected = reasoner.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert reasoner.sampler_prompts([messages])[0].text == expected


def test_one_child_renders_for_every_reasoner_of_a_process(folder):
    from medground.segmenters import bounded

    load(folder)
    first = bounded._CHILD._process.pid
    load(folder)
    assert bounded._CHILD._process.pid == first


@pytest.mark.parametrize("arguments", [{"device": "cpu", "dtype": "bfloat16"}, {"device": "auto", "dtype": "float32"}])
def test_flash_attention_is_refused_where_it_cannot_run(folder, arguments, monkeypatch):
    from medground_qwen import checkpoint

    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(RecipeError, match="runs on CUDA in 16 bits"):
        load(folder, attention="flash_attention_2", **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("share", [True, False])
def test_eager_attention_answers_as_sdpa_does(folder, share):
    import torch

    both = [load(folder, attention=attention, share=share) for attention in ("eager", "sdpa")]
    groups = [reasoner.group(conversation(), [[5, 9, 30], [8]]) for reasoner in both]
    with torch.no_grad():
        eager, sdpa = (reasoner.policy(group)[0] for reasoner, group in zip(both, groups, strict=True))
    torch.testing.assert_close(eager, sdpa, atol=1e-4, rtol=1e-4)
