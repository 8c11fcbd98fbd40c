"""What another sampler is told: the prompt as the policy computes it, and the weights as a checkpoint has them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground.protocols import ServedReasoner  # noqa: E402
from medground.training.local_engine import LocalEngine  # noqa: E402

_spec = importlib.util.spec_from_file_location("qwen_conftest", Path(__file__).with_name("conftest.py"))
common = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(common)
conversation = common.conversation


def streamed(reasoner):
    engine = LocalEngine()
    engine.prepare(reasoner.policy, torch.optim.AdamW, max_grad_norm=1.0)
    return dict(reasoner.checkpoint_weights(engine.named_weights()))


def passing(reasoner):
    """The policy's tensors, each gone once the next is drawn: as an engine gives them that gathers one by one."""
    for name, tensor in reasoner.policy.state_dict().items():
        copy = tensor.clone()
        yield name, copy
        if ".lora_" in name or name.endswith(".base_layer.weight"):  # the others are handed on as they are
            copy.fill_(float("nan"))


def test_a_prompt_is_told_as_the_policy_computes_it(make):
    reasoner = make()
    assert isinstance(reasoner, ServedReasoner)
    batch = [conversation(), conversation("Which side?", 40, 150, 1)]
    for told, encoded in zip(reasoner.sampler_prompts(batch), reasoner.encode_all(batch), strict=True):
        assert told.ids.tolist() == encoded.ids.tolist()
        assert told.frame == encoded.frame
        assert told.text.count("<|image_pad|>") == 1
        assert told.image.shape[0] % 16 == told.image.shape[1] % 16 == 0, "the image is a fixed point of the processor"


def test_what_is_never_sampled_is_told_in_ids_and_in_words(make):
    reasoner = make()
    serving = reasoner.serving()
    assert serving.forbidden.keys() == set(reasoner.tokens.forbidden.tolist())
    assert serving.forbidden[reasoner.model.config.image_token_id] == "<|image_pad|>"
    assert not serving.end & serving.forbidden.keys()
    assert (serving.dtype, serving.vision_trains) == ("float32", False)
    assert make(train_vision=True).serving().vision_trains
    assert make(train_vision=True, lora_rank=2).serving().vision_trains
    assert not make(lora_rank=2).serving().vision_trains


def test_weights_go_out_under_a_checkpoints_names(make, checkpoints, architecture):
    reasoner = make()
    sent = streamed(reasoner)
    assert set(reasoner.model.state_dict()) == set(sent)
    for name, value in reasoner.model.state_dict().items():
        assert torch.equal(sent[name], value), name


def test_an_adapter_goes_out_merged(make, checkpoints, architecture):
    """A plain model with the streamed weights scores as the adapted one does."""
    adapted, plain = make(lora_rank=3, train_vision=True), make()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    before = plain.logprobs(conversation(), [[5, 9, 30]]).detach()
    plain.model.load_state_dict(dict(adapted.checkpoint_weights(passing(adapted))), strict=True)
    after = plain.logprobs(conversation(), [[5, 9, 30]]).detach()
    wanted = adapted.logprobs(conversation(), [[5, 9, 30]]).detach()
    np.testing.assert_allclose(after, wanted, atol=1e-4)
    assert (before - wanted).abs().max() > 0.1


def test_an_adapter_that_cannot_be_merged_is_refused(make):
    reasoner = make(lora_rank=2)
    whole = list(LocalEngine.named_weights(type("E", (), {"policy": reasoner.policy})()))
    with pytest.raises(ValueError, match="is not whole"):
        dict(reasoner.checkpoint_weights([pair for pair in whole if "lora_A" not in pair[0]]))
    with pytest.raises(ValueError, match="more than a plain LoRA"):
        dict(reasoner.checkpoint_weights([*whole, ("model.a.lora_magnitude_vector.default.weight", torch.ones(1))]))


def test_what_another_sampler_wrote_becomes_a_completion_of_ones_own(make):
    reasoner = make()
    (group,) = reasoner.generate([conversation()], common.SAMPLED)
    for own in group:
        stopped = own.finish_reason == "stop"
        told = reasoner.completion(own.token_ids.tolist(), own.logprobs.tolist(), own.frame, stopped=stopped)
        assert (told.text, told.finish_reason, told.frame) == (own.text, own.finish_reason, own.frame)
        assert told.token_ids.tolist() == own.token_ids.tolist()
        assert told.logprobs.dtype == np.float32
