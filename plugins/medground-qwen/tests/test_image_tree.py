"""Questions about one image share it and the words before it, with the numbers of repeated rows in every family."""

from dataclasses import replace

import pytest
from qwen_inputs import conversation
from test_prompt_states import (
    COMPLETIONS,
    FLOAT32_BUFFERS,
    NAMES,
    QUICK,
    ROUTED,
    apart,
    build,
    gradients,
    in_float64,
    in_parts,
    weights_of,
    whole,
    worst_parameter,
)

from medground.types import Sampling

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

import other_families  # noqa: E402

__all__ = ["build"]
QUESTIONS = ("Which of them is on the left?", "Where?", "Which region would explain the shadow below?")
SEES_THE_QUESTION = {"paligemma"}
"""Its image's tokens attend to the question, so each question computes the image anew."""
pytestmark = [pytest.mark.filterwarnings(text) for text in other_families.WARNINGS]


def groups_of(reasoner):
    return [
        reasoner.group(conversation(question, 64, 64), COMPLETIONS[index:] + COMPLETIONS[:index])
        for index, question in enumerate(QUESTIONS)
    ]


def passes(reasoner, monkeypatch):
    """Return the list that (tokens in a row, whether an image) of every pass of the language model is appended to."""
    from medground_qwen import policy, tree

    seen, pass_over = [], tree.pass_over

    def counted(net, states, **given):
        seen.append((given["input_ids"].shape[1], any("pixel" in key for key in given)))
        return pass_over(net, states, **given)

    for module in (tree, policy):
        monkeypatch.setattr(module, "pass_over", counted)
    return seen


def as_tree(reasoner, groups, size=None):
    """Run groups backward, their image once, `size` completions at a time; return their log-probabilities."""
    with reasoner.policy.image_once(groups) as shared:
        return [in_parts(reasoner, group, size) if size else whole(reasoner, group) for group in shared]


def apart_from_rows(reasoner, groups):
    reasoner.share = False
    rows = groups_of(reasoner)
    reasoner.share = True
    return gradients(reasoner, lambda: [whole(reasoner, group) for group in rows])


def assert_exact(reasoner, monkeypatch, sizes=(None, 2)):
    """Trees give the log-probabilities and the gradient of repeated rows; the image and what precedes it go once."""
    logps, expected = apart_from_rows(reasoner, groups_of(reasoner))
    seen = passes(reasoner, monkeypatch)
    groups = groups_of(reasoner)
    for size in sizes:
        seen.clear()
        own, found = gradients(reasoner, lambda size=size: as_tree(reasoner, groups, size))
        for one, other in zip(own, logps, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
        assert apart(found, expected) <= 1e-5
        assert sum(image for _, image in seen) == (3 if reasoner.model.config.model_type in SEES_THE_QUESTION else 1)
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_image_computed_once_for_its_questions_equals_repeated_rows(build, name, monkeypatch):
    reasoner = build(name)
    reasoner.model.train()
    expected = assert_exact(reasoner, monkeypatch)
    assert any("vis" in parameter for parameter in expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in NAMES if name in QUICK or name.values[0] not in ROUTED | FLOAT32_BUFFERS]
)
def test_every_gradient_of_a_tree_is_that_of_repeated_rows_in_float64(build, name):
    reasoner = build(name)
    with in_float64(reasoner.model):

        def widened(groups):
            for group in groups:
                for prompt in getattr(group, "prompts", None) or [group.prompt]:
                    prompt.image.update({key: x.double() for key, x in prompt.image.items() if x.is_floating_point()})
            return groups

        own, found = gradients(reasoner, lambda: as_tree(reasoner, widened(groups_of(reasoner)), 2))
        reasoner.share = False
        rows = widened(groups_of(reasoner))
        logps, expected = gradients(reasoner, lambda: [whole(reasoner, group) for group in rows])
    for one, other in zip(own, logps, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
    assert worst_parameter(found, expected) <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("adapted", [False, True], ids=["weights", "lora"])
def test_checkpointed_layers_give_the_same_tree(build, name, adapted, monkeypatch):
    reasoner = build(name, gradient_checkpointing=True, **({"lora_rank": 4} if adapted else {}))
    reasoner.model.train()
    generator = torch.Generator().manual_seed(0)
    for parameter_name, parameter in reasoner.model.named_parameters():
        if "lora_B" in parameter_name:  # starts at 0, where half of the gradients would be 0 too
            parameter.data.normal_(0, 0.05, generator=generator)
    expected = assert_exact(reasoner, monkeypatch, sizes=(2,))
    assert all("lora" in parameter for parameter in expected) == adapted


@pytest.mark.parametrize("name", QUICK)
def test_the_comparison_sees_an_image_without_gradient(build, name):
    reasoner = build(name)
    groups = groups_of(reasoner)
    _, expected = gradients(reasoner, lambda: as_tree(reasoner, groups))

    def interrupted():
        with pytest.raises(KeyboardInterrupt), reasoner.policy.image_once(groups) as shared:
            for group in shared:
                whole(reasoner, group)
            raise KeyboardInterrupt  # leave before the gradient goes through the image

    _, found = gradients(reasoner, interrupted)
    gap = sum(float((found.get(key, 0 * value) - value).norm()) ** 2 for key, value in expected.items())
    assert gap**0.5 > 0.05 * sum(float(value.norm()) ** 2 for value in expected.values()) ** 0.5
    assert not any("vis" in name for name in found)


@pytest.mark.parametrize("name", QUICK)
def test_one_questions_graph_is_alive_at_a_time(build, name):
    """When a question begins, no state of the questions before it is left; only the image's are."""
    from torch.multiprocessing.reductions import StorageWeakRef

    reasoner = build(name)
    states = []
    with reasoner.policy.image_once(groups_of(reasoner)) as shared:
        for group in shared:
            assert all(reference.expired() for reference in states)
            with reasoner.policy.prompt_once(group) as once:
                states += [StorageWeakRef(once.computed.last.untyped_storage())]
                (reasoner.policy(once)[0] * weights_of(once)).sum().backward()
            del once


@pytest.mark.parametrize("name", QUICK)
def test_tokens_and_images_of_a_tree_are_counted_once(build, name):
    reasoner = build(name)
    groups = groups_of(reasoner)
    with reasoner.policy.image_once(groups) as shared:
        length = shared[0].trunk.length
        lengths = [len(group.prompt) for group in groups]
        assert [group.prompt_lengths for group in shared] == [(lengths[0],), *((n - length,) for n in lengths[1:])]
        assert [group.images for group in shared] == [1, 0, 0]
        with reasoner.policy.prompt_once(shared[0]) as once:
            parts = [once.part(0, 2), once.part(2, 4)]
            assert [part.images for part in parts] == [1, 0]
            assert [part.prompt_lengths for part in parts] == [(lengths[0],), ()]
    assert [group.images for group in groups] == [1, 1, 1]


def trunk(reasoner, *prompts):
    from medground_qwen.families import picture_ids
    from medground_qwen.tree import trunk_length

    return trunk_length(prompts, picture_ids(reasoner.model.config))


@pytest.mark.parametrize("name", QUICK)
def test_a_trunk_is_what_prompts_begin_with_and_holds_the_image(build, name):
    reasoner = build(name)
    one, other = (reasoner.encode(conversation(text, 64, 64)) for text in ("Where is it?", "What is it?"))
    length = trunk(reasoner, one, other)
    assert one.ids[:length].equal(other.ids[:length])
    assert one.ids[length] != other.ids[length]
    pictures = [int(token) for token in one.ids[:length] if int(token) == reasoner.model.config.image_token_id]
    assert len(pictures) == int((one.ids == reasoner.model.config.image_token_id).sum())

    # Of equal prompts one token is left: it predicts the first of an answer.
    assert trunk(reasoner, one, one) == len(one) - 1
    longer = reasoner.encode(conversation("Where is it? Left?", 64, 64))
    assert trunk(reasoner, one, longer) < len(one)


@pytest.mark.parametrize("name", QUICK)
def test_questions_about_unequal_images_share_none(build, name):
    reasoner = build(name)
    one, other = (reasoner.encode(conversation("Where?", 64, 64, seed=seed)) for seed in (0, 1))
    assert trunk(reasoner, one, other) == 0


@pytest.mark.parametrize("name", QUICK)
def test_text_before_the_image_that_differs_is_shared_by_none(build, name):
    reasoner = build(name)

    def encoded(words):
        (turn,) = conversation("Where?", 64, 64)
        return reasoner.encode([{**turn, "content": [{"type": "text", "text": words}, *turn["content"]]}])

    one, other = encoded("In a scan:"), encoded("On a film:")
    assert trunk(reasoner, one, other) == 0
    assert trunk(reasoner, replace(one, per_token={}), replace(other, per_token={})) == 0, "its tokens say so, too"
    assert trunk(reasoner, one, encoded("In a scan:")) > 0


def test_positions_and_kinds_of_tokens_count_too(build):
    reasoner = build("qwen2_5_vl")
    one, other = (reasoner.encode(conversation(text, 64, 64)) for text in ("Where is it?", "Where was it?"))
    length = trunk(reasoner, one, other)
    moved = other.positions.clone()
    moved[1, length - 2] += 1
    assert trunk(reasoner, one, replace(other, positions=moved)) == length - 2
    kinds = {"mm_token_type_ids": other.per_token["mm_token_type_ids"].clone()}
    kinds["mm_token_type_ids"][length - 1] = 5
    assert trunk(reasoner, one, replace(other, per_token=kinds)) == 0, "a token of a picture would be left out"


def test_an_image_that_sees_the_question_is_shared_by_none(build):
    from medground_qwen.families import Layout

    reasoner = build("qwen2_5_vl")
    layout = Layout(image_alone=False)
    one, other = (replace(reasoner.encode(conversation(text, 64, 64)), layout=layout) for text in ("Where?", "What?"))
    assert trunk(reasoner, one, other) == 0


def test_the_tensors_of_an_image_are_held_once(build):
    reasoner = build("qwen2_5_vl")
    one, other = (reasoner.encode(conversation(text, 64, 64)) for text in ("Where?", "What?"))
    another = reasoner.encode(conversation("Where?", 64, 64, seed=1))
    assert all(other.image[key] is pixels for key, pixels in one.image.items())
    assert not any(another.image[key].equal(one.image[key]) for key in ("pixel_values",))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_questions_sampled_together_get_the_tokens_of_each_alone(build, name, monkeypatch):
    """Three questions about one image and one about another: two images are encoded, and the update agrees."""
    reasoner = build(name)
    seen = passes(reasoner, monkeypatch)
    batch = [conversation(question, 64, 64) for question in QUESTIONS]
    batch.insert(1, conversation("What is it?", 64, 40, seed=1))
    seeds, sampling = [1, 50, 100, 150], Sampling(num_generations=3, temperature=1.0, max_completion_length=8)
    together = reasoner.generate(batch, sampling, seeds)
    assert sum(image for _, image in seen) == (0 if name in SEES_THE_QUESTION else 2)
    for messages, seed, group in zip(batch, seeds, together, strict=True):
        (alone,) = reasoner.generate([messages], sampling, [seed])
        assert [list(one.token_ids) for one in alone] == [list(one.token_ids) for one in group]
    logps = [
        reasoner.policy(reasoner.group(messages, group))[0] for messages, group in zip(batch, together, strict=True)
    ]
    for logp, group in zip(logps, together, strict=True):
        for row, completion in zip(logp.detach(), group, strict=True):
            sampled = torch.from_numpy(completion.logprobs)
            torch.testing.assert_close(row[: len(sampled)], sampled, atol=1e-5, rtol=0)
