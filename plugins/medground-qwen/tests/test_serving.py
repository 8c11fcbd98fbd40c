"""Another sampler receives the prompt of the policy and weights under the names of a checkpoint."""

import numpy as np
import pytest
from qwen_inputs import SAMPLED, conversation, scored

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground.protocols import ServedReasoner  # noqa: E402
from medground.training.local_engine import LocalEngine  # noqa: E402


def streamed(reasoner):
    engine = LocalEngine()
    engine.prepare(reasoner.policy, torch.optim.AdamW, max_grad_norm=1.0)
    return dict(reasoner.checkpoint_weights(engine.named_weights()))


def passing(reasoner):
    """Yield the policy's tensors and overwrite each before the next, as an engine that gathers one at a time."""
    for name, tensor in reasoner.policy.state_dict().items():
        copy = tensor.clone()
        yield name, copy
        if ".lora_" in name or name.endswith(".base_layer.weight"):  # the others are handed on as they are
            copy.fill_(float("nan"))


def test_the_served_prompt_equals_the_one_the_policy_computes(make):
    reasoner = make()
    assert isinstance(reasoner, ServedReasoner)
    batch = [conversation(), conversation("Which side?", 40, 150, 1)]
    for told, encoded in zip(reasoner.sampler_prompts(batch), reasoner.encode_all(batch), strict=True):
        assert told.ids.tolist() == encoded.ids.tolist()
        assert told.frame == encoded.frame
        assert told.text.count("<|image_pad|>") == 1
        assert told.image.shape[0] % 16 == told.image.shape[1] % 16 == 0, "the image is a fixed point of the processor"


@pytest.mark.slow
def test_forbidden_tokens_are_served_as_ids_and_as_words(make):
    reasoner = make()
    serving = reasoner.serving()
    assert serving.forbidden.keys() == set(reasoner.tokens.forbidden.tolist())
    assert serving.forbidden[reasoner.model.config.image_token_id] == "<|image_pad|>"
    assert not serving.end & serving.forbidden.keys()
    assert (serving.dtype, serving.vision_trains) == ("float32", False)
    assert make(train_vision=True).serving().vision_trains
    assert make(train_vision=True, lora_rank=2).serving().vision_trains
    assert not make(lora_rank=2).serving().vision_trains


def test_served_weights_have_the_names_of_a_checkpoint(make, checkpoints, architecture):
    reasoner = make()
    sent = streamed(reasoner)
    assert set(reasoner.model.state_dict()) == set(sent)
    for name, value in reasoner.model.state_dict().items():
        assert torch.equal(sent[name], value), name


@pytest.mark.slow
def test_a_served_adapter_is_merged(make, checkpoints, architecture):
    """A plain model with the streamed weights gives the log-probabilities of the model with its adapter."""
    adapted, plain = make(lora_rank=3, train_vision=True), make()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    before = scored(plain, conversation(), [[5, 9, 30]]).detach()
    plain.model.load_state_dict(dict(adapted.checkpoint_weights(passing(adapted))), strict=True)
    after = scored(plain, conversation(), [[5, 9, 30]]).detach()
    wanted = scored(adapted, conversation(), [[5, 9, 30]]).detach()
    np.testing.assert_allclose(after, wanted, atol=1e-4)
    assert (before - wanted).abs().max() > 0.1


def test_an_adapter_that_cannot_be_merged_is_refused(make):
    reasoner = make(lora_rank=2)
    whole = list(LocalEngine.named_weights(type("E", (), {"policy": reasoner.policy})()))
    with pytest.raises(ValueError, match="is not whole"):
        dict(reasoner.checkpoint_weights([pair for pair in whole if "lora_A" not in pair[0]]))
    with pytest.raises(ValueError, match="more than a plain LoRA"):
        dict(reasoner.checkpoint_weights([*whole, ("model.a.lora_magnitude_vector.default.weight", torch.ones(1))]))


def test_token_ids_of_another_sampler_become_a_completion(make):
    reasoner = make()
    (group,) = reasoner.generate([conversation()], SAMPLED)
    for own in group:
        stopped = own.finish_reason == "stop"
        told = reasoner.completion(own.token_ids.tolist(), own.logprobs.tolist(), own.frame, stopped=stopped)
        assert (told.text, told.finish_reason, told.frame) == (own.text, own.finish_reason, own.frame)
        assert told.token_ids.tolist() == own.token_ids.tolist()
        assert told.logprobs.dtype == np.float32
