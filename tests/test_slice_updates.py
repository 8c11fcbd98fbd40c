"""Both exchanges about a volume in one update of a real model: gradients, images, log-probabilities, and a run resumed."""

import numpy as np
import pytest
from medground_toy.volumes import write_questions

from medground.recipe import resolve
from medground.types import Completion, image_of, text_of

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("nibabel", reason="needs nibabel")

from test_train_run import assert_same, interrupted, tables  # noqa: E402

from medground.runs.folder import read_events  # noqa: E402
from medground.training.build import build  # noqa: E402
from medground.training.grpo.rollouts import OwnSampler  # noqa: E402
from medground.training.run import train  # noqa: E402


def go_on():
    """Never stop."""


def is_montage(messages):
    return "slices of one volume" in text_of(messages)


class Naming:
    """The trained model samples what is said about a slice; which of two slices it is follows from the seed.

    Args:
        slices: the two.
        texts: mean grey of a slice -> what is said about it, in place of the model's own words.
    """

    def __init__(self, slices=(3, 4), texts=None):
        self._own, self._slices, self._texts = OwnSampler(), slices, texts

    def begin(self, reasoner, engine):
        self._own.begin(reasoner, engine)

    def sync(self, weights, version):
        pass

    def sleep(self):
        pass

    def close(self):
        pass

    def generate(self, batch, sampling, seeds):
        groups = self._own.generate(batch, sampling, seeds)
        for index, messages in enumerate(batch):
            if is_montage(messages):
                numbers = [self._slices[(seeds[index] + i) % 2] for i in range(len(groups[index]))]
                texts = [f'<answer>{{"slice": {number}}}</answer>' for number in numbers]
            elif self._texts is not None:
                texts = [self._texts[round(float(image_of(messages).mean()), 3)]] * len(groups[index])
            else:
                continue
            groups[index] = self._said(messages, texts, groups[index][0].frame)
        return groups

    def _said(self, messages, texts, frame):
        """Completions of the texts, with the log-probabilities of the model."""
        reasoner = self._own.reasoner
        ids = [reasoner.tokenize(text) for text in texts]
        with torch.no_grad():
            logps = reasoner.policy(reasoner.group(messages, ids), 1.0)[0].float().numpy()
        return [
            Completion(text=text, frame=frame, token_ids=np.array(own, np.int32), logprobs=row[: len(own)])
            for text, own, row in zip(texts, ids, logps, strict=True)
        ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three volumes of 32 x 32 x 8 voxels."""
    folder = tmp_path_factory.mktemp("volumes")
    write_questions(folder, 3, 5, size=32, slices=8)
    return folder


@pytest.fixture
def recipe(trials, data):
    """``recipe(**grpo)``: two questions a step, four completions a group; random letters are paid."""

    def written(**settings):
        small = {"num_generations": 4, "scale_rewards": "none", "max_steps": 2, "max_completion_length": 8}
        volumes = {"slice": "ask", "tiles": 4}
        return trials(**small | settings) | {"data": {"path": str(data)}, "volume": volumes, "segmenter": "box_fill"}

    return written


def built(recipe, source):
    return build(resolve(recipe, values={"rollout": source}))


def gradient(made, batch):
    """The gradient of an update, as one vector, and its sums."""
    made.engine.step = lambda rate: 1.0  # leaves the gradients to be seen
    stats = made.method.update(batch, lambda update: 1e-3, go_on)
    return torch.cat([p.grad.flatten() for p in made.reasoner.policy.parameters() if p.grad is not None]), stats


@pytest.mark.slow
def test_an_update_encodes_every_picture_once_and_knows_what_was_sampled(recipe):
    made = built(recipe(), Naming())
    batch = made.method.rollouts.draw(1, 0, go_on)
    assert [one.details[0]["exchange"] for one in batch.groups] == ["slice"] * 2 + ["answer"] * 4
    signal = [not constant for constant in batch.constant.tolist()]
    assert all(signal), "random letters differ"
    made.method.rollouts.draw = lambda *_: batch
    vector, stats = gradient(made, batch)
    assert stats.updates == 1 and stats.images == len(set(batch.images)) == 6
    assert stats.compared == sum(len(row.completion.token_ids) for one in batch.groups for row in one.rollouts)
    assert stats.mismatch / stats.compared < 1e-5 and stats.highest_mismatch < 1e-4
    assert float(vector.norm()) > 1e-3


@pytest.mark.slow
def test_the_gradient_of_the_first_exchange_depends_on_what_the_second_earns(recipe):
    """What is said on two slices changes places, and so does which slice the policy is moved to."""
    written = resolve(recipe(train_batch_size=1, mini_batch_size=1), "data.limit=1")

    def of_first(swapped):
        made = build(written)
        question = made.samples.entries[0].read()
        slices = np.flatnonzero(question.slices.areas)[:2].tolist()
        greys = [round(float(question.second(index).query.image.mean()), 3) for index in slices]
        assert len(set(greys)) == 2, "both show the target and differ"
        texts = ("xxxx", "aaaa") if swapped else ("aaaa", "xxxx")
        source = Naming(slices, dict(zip(greys, texts, strict=True)))
        source.begin(made.reasoner, made.engine)
        made.method.rollouts.source = source
        batch = made.method.rollouts.draw(1, 0, go_on)
        numbers = [row["slice"] for row in batch.groups[0].details]
        assert sorted(numbers) == [slices[0], slices[0], slices[1], slices[1]]
        better = slices[1] if swapped else slices[0]
        assert batch.advantages[0].tolist() == [0.5 if number == better else -0.5 for number in numbers]
        assert batch.constant.tolist() == [False, True, True], "all that is said on a slice is the same"
        return gradient(made, batch)[0]

    one, other = of_first(False), of_first(True)
    assert float(one.norm()) > 1e-3
    assert torch.allclose(one, -other, atol=1e-6 * float(one.norm()))


@pytest.mark.slow
def test_a_resumed_run_on_volumes_equals_the_uninterrupted_one(recipe, tmp_path):
    written = recipe(save_every=1)
    train(written, out=tmp_path / "whole", rollout=Naming())
    interrupted(resolve(written, values={"rollout": Naming()}), tmp_path / "cut", 1)
    train(written, out=tmp_path / "cut", resume=True, rollout=Naming())
    assert_same(tmp_path / "cut", tmp_path / "whole")
    rows = tables(tmp_path / "whole")["completions_00002"]
    assert {row["exchange"] for row in rows} == {"slice", "answer"} and all(row["completion"] for row in rows[:8])
    assert {row["slice"] for row in rows} == {3, 4} and all(row["slice_error_mm"] is not None for row in rows)
    assert all(line["slice/error_mm"] >= 0 and line["slice/measured"] == 8 for line in read_events(tmp_path / "whole"))
    assert "Distance of the chosen slice, mm" in (tmp_path / "whole" / "report.html").read_text()
