"""Rollouts by the real vLLM in this process, on a CPU: `make test-vllm`."""

import os

import numpy as np
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

torch = pytest.importorskip("torch", reason="needs torch")

from medground import registry  # noqa: E402
from medground.training.local_engine import LocalEngine  # noqa: E402
from medground.types import Sampling  # noqa: E402

GROUP = Sampling(num_generations=4, temperature=0.8, max_completion_length=16)


def conversation(seed=0, text="Where is the shadow?", size=(90, 120)):
    image = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


BATCH = [conversation(), conversation(1, "Which bright region lies on the right?", (40, 150))]
SEEDS = [11, 2**47]


class Trained:
    """Return a tiny reasoner, its engine, and vLLM that samples for it."""

    def __init__(self, architecture, folder, **arguments):
        from medground_qwen import factories, tiny

        words = tiny.tokenizer()
        made = tiny.model(architecture, words, patch=8)
        tiny.save(folder, made, tiny.processor(architecture, words, patch=8, max_side=128))
        factory = getattr(factories, architecture)
        self.reasoner = factory(checkpoint=str(folder), dtype="float32", device="cpu", **arguments)
        self.engine = LocalEngine()
        self.policy = self.engine.prepare(
            self.reasoner.policy, lambda parameters: torch.optim.AdamW(parameters, lr=1e-2), max_grad_norm=1.0
        )
        self.source = registry.build("rollout", "vllm", enforce_eager=True, max_model_len=512)
        self.source.begin(self.reasoner, self.engine)

    def vllm_model(self, do):
        """What a function says of vLLM's own module."""
        return self.source.sampler.llm.apply_model(do)[0]

    def apart(self, groups, temperature=0.8):
        """The largest difference between vLLM's log-probabilities and the trainer's."""
        found = 0.0
        for messages, group in zip(BATCH, groups, strict=True):
            ours = self.reasoner.policy(self.reasoner.group(messages, group), temperature)[0].detach().numpy()
            for row, completion in zip(ours, group, strict=True):
                found = max(found, float(np.abs(row[: len(completion.logprobs)] - completion.logprobs).max()))
        return found

    def update(self, group):
        """One big step on the first question."""
        logp, _ = self.policy(self.reasoner.group(BATCH[0], group), 0.8)
        self.engine.backward((logp.sum(dim=1) * torch.tensor([-1.0, 1.0, -1.0, 1.0])).mean())
        return self.engine.step(1e-2)


KINDS = {
    "qwen2_5_vl, all of it": ("qwen2_5_vl", {"train_vision": True}),
    "qwen3_vl, LoRA": ("qwen3_vl", {"lora_rank": 4, "train_vision": True}),
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    architecture, arguments = KINDS[request.param]
    made = Trained(architecture, tmp_path_factory.mktemp(architecture), **arguments)
    yield made
    made.source.close()


def test_log_probabilities_agree_before_and_after_updates(trained, record_property):
    """They agree to 1e-4 in float32 with the vision tower trained, although each update makes cached encodings stale."""
    before = None
    for version in range(4):
        trained.source.sync(trained.engine.named_weights(), version)
        groups = trained.source.generate(BATCH, GROUP, SEEDS)
        apart = trained.apart(groups)
        print(f"version {version}: at most {apart:.2e} apart")
        assert apart <= 1e-4
        if before is not None:  # the updates were no small ones: last version's completions are far from today's policy
            assert trained.apart(before) > 1e-2
        before = groups
        assert np.isfinite(trained.update(groups[0]))


def test_an_image_is_encoded_once_for_a_group(trained):
    trained.source.sync(trained.engine.named_weights(), 10)

    def count(model):
        model.visual.seen = []
        model.visual.hook = model.visual.register_forward_pre_hook(
            lambda module, given, named: module.seen.append(given or named), with_kwargs=True
        )

    trained.vllm_model(count)
    eight = Sampling(num_generations=8, temperature=1.0, max_completion_length=8)
    (group,) = trained.source.generate(BATCH[:1], eight, SEEDS[:1])
    encoded = trained.vllm_model(lambda model: len(model.visual.seen))
    trained.vllm_model(lambda model: model.visual.hook.remove())
    assert len(group) == 8
    assert encoded == 1


def test_a_completion_depends_on_conversation_seed_and_index_alone(trained):
    trained.source.sync(trained.engine.named_weights(), 11)
    together = trained.source.generate(BATCH, GROUP, SEEDS)
    alone = [trained.source.generate([messages], GROUP, [seed])[0] for messages, seed in zip(BATCH, SEEDS, strict=True)]
    for group, single in zip(together, alone, strict=True):
        assert [each.token_ids.tolist() for each in group] == [each.token_ids.tolist() for each in single]
    one = Sampling(num_generations=1, temperature=0.8, max_completion_length=16)
    (third,) = trained.source.generate(BATCH[:1], one, [SEEDS[0] + 2])
    assert third[0].token_ids.tolist() == together[0][2].token_ids.tolist()
    other = trained.source.generate(BATCH[:1], GROUP, [SEEDS[0] + 100])
    assert [each.token_ids.tolist() for each in other[0]] != [each.token_ids.tolist() for each in together[0]]


def test_greedy_answers_equal_those_of_the_reasoner(trained):
    trained.source.sync(trained.engine.named_weights(), 12)
    greedy = Sampling(num_generations=1, temperature=0.0, max_completion_length=16)
    theirs = trained.source.generate(BATCH, greedy, SEEDS)
    ours = trained.reasoner.generate(BATCH, greedy, SEEDS)
    for (their,), (our,) in zip(theirs, ours, strict=True):
        assert their.token_ids.tolist() == our.token_ids.tolist()
        assert (their.text, their.frame, their.finish_reason) == (our.text, our.frame, our.finish_reason)
        np.testing.assert_allclose(their.logprobs, our.logprobs, atol=1e-4)


def test_image_tokens_are_never_sampled(trained):
    """This test runs last, because it changes the policy to prefer image tokens."""
    model = trained.reasoner.model
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[model.config.image_token_id] += 50 * head[:50].mean(dim=0)
    trained.source.sync(trained.engine.named_weights(), 13)
    groups = trained.source.generate(BATCH, GROUP, SEEDS)
    written = {int(token) for group in groups for completion in group for token in completion.token_ids}
    assert not written & set(trained.reasoner.tokens.forbidden.tolist())
    assert trained.apart(groups) <= 1e-4
