"""LoRA works with every supported transformers and peft, and its files load in peft."""

import json

import pytest
from qwen_inputs import conversation, scored, trained_parameters

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("peft", reason="needs peft")

from medground_qwen.calls import cache_name, checkpoint_activations  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from medground.errors import InputError, RecipeError  # noqa: E402

IDS = [[5, 9, 30]]


def logps(reasoner):
    return scored(reasoner, conversation(), IDS).detach()


@pytest.fixture
def trained(make):
    """Return a reasoner whose adapter changes its outputs."""
    reasoner = make(lora_rank=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in reasoner.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    return reasoner


@pytest.fixture
def refusing(monkeypatch):
    """Make transformers refuse the installed peft, as its releases do with versions older than they require."""

    def refuse(min_version):
        raise ImportError(f"peft {min_version} is wanted")

    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", refuse)


@pytest.mark.slow
def test_an_adapter_is_saved_and_loaded_as_it_was(trained, make, tmp_path, refusing):
    assert trained.save(tmp_path) == "adapter"
    again = make(adapter=str(tmp_path), lora_rank=2)
    assert torch.equal(logps(again), logps(trained))
    assert len(trained_parameters(again)) == len(trained_parameters(trained)) > 0
    with again.reference():
        assert torch.equal(logps(again), logps(make()))
    assert torch.equal(logps(again), logps(trained))


@pytest.mark.slow
def test_an_adapter_without_a_rank_does_not_train(trained, make, tmp_path):
    trained.save(tmp_path)
    frozen = make(adapter=str(tmp_path))
    assert torch.equal(logps(frozen), logps(trained))
    assert not trained_parameters(frozen)


def test_adapter_files_load_in_peft(trained, checkpoints, architecture, tmp_path):
    trained.save(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.") and "default" not in name for name in names)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (2, 4, "LORA")
    assert config["base_model_name_or_path"] == str(checkpoints[architecture])
    assert not (tmp_path / "model.safetensors").exists()


def test_a_merged_adapter_is_a_plain_model(trained, make, tmp_path, refusing):
    before = logps(trained)
    trained.save_merged(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    torch.testing.assert_close(logps(trained), before, atol=1e-4, rtol=0)
    assert not any("lora" in name or "base_layer" in name for name, _ in trained.model.named_parameters())


@pytest.mark.parametrize("fault", ["one factor missing", "one too many", "no file"])
def test_an_adapter_of_another_model_is_refused(fault, trained, make, tmp_path):
    trained.save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    if fault == "no file":
        path.unlink()
    else:
        name = next(iter(tensors))
        if fault == "one factor missing":
            del tensors[name]
        else:
            tensors["base_model.model.other.lora_A.weight"] = tensors[name].clone()
        save_file(tensors, path)
    with pytest.raises(
        InputError, match=r"no adapter_model\.safetensors|no adapter of this model|do not fit the model"
    ):
        make(adapter=str(tmp_path), lora_rank=2)


def renamed(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file({change(name): value for name, value in load_file(path).items()}, path)


def test_an_adapter_of_other_layer_names_is_refused_and_both_are_named(trained, make, tmp_path):
    trained.save(tmp_path)
    renamed(tmp_path, lambda name: name.replace("language_model.", ""))
    with pytest.raises(
        InputError, match=r"it adapts model\.layers\.0\.\S+, .* the model has .* model\.language_model\.layers\.0"
    ):
        make(adapter=str(tmp_path))


@pytest.mark.slow
def test_an_adapter_of_a_compiled_model_is_loaded(trained, make, tmp_path):
    trained.save(tmp_path)
    renamed(tmp_path, lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."))
    assert torch.equal(logps(make(adapter=str(tmp_path))), logps(trained))


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        ({"lora_rank": 4}, "lora_rank: 4 is not the rank of the adapter .*: 2", "write lora_rank: 2"),
        ({"lora_alpha": 8}, "lora_alpha: 8 is not the one of the adapter .*: 4", "write lora_alpha: 4"),
        ({"lora_rank": 2, "train_vision": True}, "does not adapt the vision tower", "write train_vision: false"),
    ],
)
def test_a_recipe_that_says_otherwise_than_the_adapter_is_refused(arguments, sentence, hint, trained, make, tmp_path):
    trained.save(tmp_path)
    with pytest.raises(RecipeError, match=sentence) as caught:
        make(adapter=str(tmp_path), **arguments)
    assert hint in caught.value.hint


@pytest.mark.slow
def test_an_adapter_of_the_vision_tower_trains_only_where_the_recipe_says_so(make, tmp_path):
    make(lora_rank=2, train_vision=True).save(tmp_path)
    with pytest.raises(RecipeError, match=r"train_vision: false, but the adapter .* adapts the vision tower"):
        make(adapter=str(tmp_path), lora_rank=2)
    assert trained_parameters(make(adapter=str(tmp_path), lora_rank=2, train_vision=True))
    assert not trained_parameters(make(adapter=str(tmp_path)))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("r", 3, r"of another shape: .*lora_A.weight \(2x\d+, expected 3x"),
        ("r", 10**9, "has r: 1000000000, which is no rank"),
        ("lora_alpha", 0, "has lora_alpha: 0, which is no scale"),
        ("target_modules", ["gate_proj"], "which its target_modules do not name"),
        ("use_dora", True, "has use_dora, which is more than a plain LoRA"),
        ("init_lora_weights", "pissa", "has init_lora_weights, which is more than a plain LoRA"),
        ("peft_type", "IA3", "is no configuration of a LoRA adapter"),
    ],
)
def test_a_configuration_that_is_not_the_adapters_is_refused(key, value, sentence, trained, make, tmp_path):
    trained.save(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=sentence):
        make(adapter=str(tmp_path))


@pytest.mark.slow
def test_a_rank_stabilized_adapter_keeps_its_scale(trained, make, tmp_path):
    trained.save(tmp_path)
    plain = logps(make(adapter=str(tmp_path)))
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"use_rslora": True}))
    stabilized = logps(make(adapter=str(tmp_path)))
    path.write_text(json.dumps(settings | {"lora_alpha": settings["lora_alpha"] * 2**0.5}))
    torch.testing.assert_close(stabilized, logps(make(adapter=str(tmp_path))))
    assert not torch.equal(stabilized, plain)


class Model:
    inputs_require_grads = True

    def disable_input_require_grads(self):
        self.inputs_require_grads = False


class Older(Model):
    def forward(self, input_ids, past_key_values=None):
        raise NotImplementedError

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs):
        self.given = gradient_checkpointing_kwargs


class Newer(Model):
    def forward(self, input_ids, cache=None):
        raise NotImplementedError

    def activation_checkpointing_enable(self):
        self.given = None


def test_renamed_library_calls_are_recognized(make):
    assert [cache_name(Older()), cache_name(Newer())] == ["past_key_values", "cache"]
    for model, given in ((Older(), {"use_reentrant": False}), (Newer(), None)):
        checkpoint_activations(model)
        assert model.given == given and not model.inputs_require_grads
    reasoner = make()
    inputs = reasoner.encode(conversation())
    out = reasoner.model(input_ids=inputs.ids[None, :1], use_cache=True)
    assert hasattr(out[cache_name(reasoner.model)], "batch_repeat_interleave")
