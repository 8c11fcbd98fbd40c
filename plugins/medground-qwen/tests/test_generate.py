"""Rollouts need one prefill per query, equal those of repeated rows and do not depend on the batch."""

import numpy as np
import pytest
from qwen_inputs import GREEDY, SAMPLED, conversation, scored

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground.types import Sampling  # noqa: E402


@pytest.mark.slow
@pytest.mark.lane
def test_greedy_equals_transformers_own_generate(make):
    reasoner = make()
    prompt = reasoner.encode(conversation())
    theirs = reasoner.model.generate(
        input_ids=prompt.ids.expand(3, -1),
        attention_mask=torch.ones(3, len(prompt), dtype=torch.int64),
        **{key: value.expand(3, -1) for key, value in prompt.per_token.items()},
        **{key: value.repeat(3, 1) for key, value in prompt.image.items()},
        do_sample=False,
        max_new_tokens=20,
        suppress_tokens=reasoner.tokens.forbidden.tolist(),
    )[:, len(prompt) :]
    (ours,) = reasoner.generate([conversation()], GREEDY)
    length = len(ours[0].token_ids)
    for row in theirs.tolist():
        assert row[:length] == ours[0].token_ids.tolist()


def test_continuing_a_text_equals_transformers_own_generate(make):
    reasoner = make()
    text = "<think>dark"
    ids = reasoner.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = reasoner.encode(conversation()).then(ids)
    theirs = reasoner.model.generate(
        input_ids=prompt.ids.unsqueeze(0),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        **{key: value.unsqueeze(0) for key, value in prompt.per_token.items()},
        **prompt.image,
        do_sample=False,
        max_new_tokens=12,
        suppress_tokens=reasoner.tokens.forbidden.tolist(),
    )[0, len(prompt) :]
    longer = Sampling(num_generations=1, temperature=0.0, max_completion_length=12 + len(ids))
    ((ours,),) = reasoner.go_on([conversation()], [text], longer)
    assert ours.text == text + reasoner.processor.tokenizer.decode(theirs, skip_special_tokens=True)
    assert ours.token_ids is None


def test_continuing_an_empty_text_equals_generating(make):
    reasoner = make()
    went, answered = reasoner.go_on([conversation()], [""], GREEDY), reasoner.generate([conversation()], GREEDY)
    assert [each.text for each in went[0]] == [each.text for each in answered[0]]


def test_a_listener_hears_a_completion_piece_by_piece_and_may_end_it(make):
    class Enough(Exception):
        pass

    reasoner, pieces = make(), []
    alone = Sampling(num_generations=1, temperature=0.0, max_completion_length=12)

    def listen(piece):
        pieces.append(piece)
        if len(pieces) == most:
            raise Enough

    reasoner.listen, most = listen, 1000
    ((completion,),) = reasoner.generate([conversation()], alone)
    assert len(pieces) > 2 and completion.text.startswith("".join(pieces))
    pieces, most = [], 2
    with pytest.raises(Enough):
        reasoner.generate([conversation()], alone)
    assert len(pieces) == 2
    reasoner.listen = None
    assert reasoner.generate([conversation()], alone)[0][0].text == completion.text


def test_a_greedy_group_repeats_itself_and_needs_one_prefill(make):
    reasoner = make()
    seen = []
    reasoner.model.model.visual.register_forward_pre_hook(lambda *_: seen.append(1))
    (group,) = reasoner.generate(
        [conversation()], Sampling(num_generations=5, temperature=0.0, max_completion_length=9)
    )
    assert len({tuple(completion.token_ids) for completion in group}) == 1
    assert len(seen) == 1, "the image is encoded once for the whole group"


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_completion_does_not_depend_on_its_batch(make, sampling):
    reasoner = make()
    batch = [
        conversation(),
        conversation("Which bright region is on the right side?", 40, 150, 1),
        conversation(seed=2),
    ]
    together = reasoner.generate(batch, sampling)
    alone = [reasoner.generate([messages], sampling)[0] for messages in batch]
    for group, single in zip(together, alone, strict=True):
        assert [completion.token_ids.tolist() for completion in group] == [
            completion.token_ids.tolist() for completion in single
        ]


def test_the_recorded_logprobs_are_the_trainers(make):
    reasoner = make()
    for temperature in (1.0, 0.7):
        sampling = Sampling(num_generations=4, temperature=temperature, max_completion_length=20)
        (group,) = reasoner.generate([conversation()], sampling)
        fresh = scored(reasoner, conversation(), group, temperature=temperature).detach().numpy()
        for row, completion in enumerate(group):
            np.testing.assert_allclose(fresh[row, : len(completion.logprobs)], completion.logprobs, atol=1e-4)


def test_image_tokens_are_never_sampled(make):
    reasoner = make()
    head = reasoner.model.get_output_embeddings()
    with torch.no_grad():  # a policy that wants nothing but image tokens
        head.weight[reasoner.model.config.image_token_id] += 50 * head.weight[:50].mean(dim=0)
    (group,) = reasoner.generate([conversation()], SAMPLED)
    written = {int(token) for completion in group for token in completion.token_ids}
    assert not written & set(reasoner.tokens.forbidden.tolist())
    assert reasoner.model.config.image_token_id in reasoner.tokens.forbidden.tolist()
    assert reasoner.tokens.end.isdisjoint(reasoner.tokens.forbidden.tolist())


@pytest.mark.slow
def test_finish_reason_and_the_end_token(make):
    reasoner = make()
    with torch.no_grad():
        reasoner.model.get_output_embeddings().weight *= 0.05  # nearly uniform, so that some completions stop early
    sampling = Sampling(num_generations=64, temperature=1.0, max_completion_length=200)
    (group,) = reasoner.generate([conversation()], sampling)
    reasons = {completion.finish_reason for completion in group}
    assert reasons == {"stop", "length"}
    for completion in group:
        assert (int(completion.token_ids[-1]) in reasoner.tokens.end) is (completion.finish_reason == "stop")
        assert len(completion.token_ids) == len(completion.logprobs) <= 200


def test_the_frame_is_the_size_the_model_sees(make, architecture):
    reasoner = make()
    (group,) = reasoner.generate([conversation(height=517, width=763)], GREEDY)
    frame = group[0].frame
    assert frame == reasoner.frame((517, 763))
    assert frame.size[0] * frame.size[1] <= 128 * 128
    assert frame.kind == {"qwen2_5_vl": "pixel", "qwen3_vl": "permille"}[architecture]


def test_a_saved_policy_loads_in_transformers(make, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    reasoner = make()
    reasoner.save(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, reasoner.model.state_dict()[name])
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
