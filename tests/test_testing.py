"""The conformance kit: built-ins keep every promise, deliberately wrong components break many and are told which."""

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medground.errors import SegmenterError
from medground.geometry import Box
from medground.licences import Published, Terms, stated
from medground.registry import components, factory
from medground.testing import (
    ConformanceError,
    check_engine,
    check_prompt_interface,
    check_reasoner,
    check_reward,
    check_rollout,
    check_segmenter,
    check_tracker,
)
from medground.types import Completion, Fault, Grounding, Mask, Region, RewardResult

CHECKS = {
    "segmenter": check_segmenter,
    "reward": check_reward,
    "prompt_interface": check_prompt_interface,
    "reasoner": check_reasoner,
}
WEIGHTLESS = {"medground_toy", "medground_prompts", "medground_rewards"}
BUILT_IN = [(c.kind, c.name) for c in components() if c.module in WEIGHTLESS and c.kind in CHECKS]
ALIEN = Path(__file__).parent / "alien"


def broken_by(check, wrong, **arguments) -> list[str]:
    with pytest.raises(ConformanceError) as caught:
        check(wrong, **arguments)
    return caught.value.broken


def names(*, of: list[str], **promises: str) -> None:
    """Each promise is among those broken."""
    for what, words in promises.items():
        assert any(words in sentence for sentence in of), f"{what}: {words!r} is not in {of}"


@pytest.mark.parametrize(("kind", "name"), BUILT_IN, ids=lambda value: value)
def test_every_built_in_without_weights_conforms(kind, name):
    CHECKS[kind](factory(kind, name))


def test_enough_built_ins_are_checked():
    assert len(BUILT_IN) >= 20
    assert {kind for kind, _ in BUILT_IN} == set(CHECKS)


@pytest.mark.slow
def test_a_third_party_plugin_conforms_and_is_found_from_its_metadata():
    """The 24-line plugin is in nobody's wheel: a module and a dist-info folder on the path are enough."""
    code = """
import sys, medground
from medground.registry import find
owner = find("segmenter", "bright")
assert (owner.distribution, owner.version) == ("medground-bright", "1.0")
assert "medground_bright" not in sys.modules
print(medground.build("segmenter", "bright", quantile=0.9))
from medground.testing import check_segmenter
from medground_bright import Bright
check_segmenter(Bright)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ALIEN), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Bright(quantile=0.9)"
    assert len((ALIEN / "medground_bright.py").read_text().splitlines()) == 24


class WrongSegmenter:
    """Takes a recipe word, keeps its size, marks the image, answers floats in the wrong order, knows no empty list."""

    accepts = ("box", "points", "text")

    def __init__(self, name="wrong", *, weight=1.0):
        self.lock = lambda: name

    def segment(self, image, prompts):
        image[0, 0] = 255
        height, width = image.shape[:2]
        total = sum(len(prompt.points) for prompt in prompts)
        if prompts and prompts[0].box is None and not prompts[0].points[0].x < width:
            raise IndexError("outside")
        return [Mask(data=np.full((width, height), total, float), score=float("nan"))] * max(len(prompts), 1)


def test_at_least_five_broken_promises_of_a_wrong_segmenter_are_named():
    broken = broken_by(check_segmenter, WrongSegmenter)
    assert len(broken) >= 5
    names(
        of=broken,
        reserved="no parameter may be a word of recipes, name or weight: name='wrong' (and 1 more)",
        keyword="every parameter must be keyword-only (put a * before the first): name='wrong'",
        accepts="accepts is a non-empty frozenset out of",
        shape="a mask is bool at the size of its image: (53, 37) float64 for a (37, 53) image",
        score="a mask's score is a finite float: nan",
        mutated="segment leaves the image as it is",
        empty="no prompts give []: 37x53 image gives [Mask(",
        hostile="any prompt gives a mask or a SegmenterError: a point on the far corner raises IndexError: outside",
    )


class Moody:
    """Depends on what it was asked before and on what else is asked."""

    accepts = frozenset({"box", "points"})

    def __init__(self, *, start: int = 0) -> None:
        self.calls = start

    def __repr__(self) -> str:
        return f"Moody(start={self.calls})"

    def segment(self, image, prompts):
        self.calls += bool(prompts)
        masks = [np.zeros(image.shape[:2], bool) for _ in prompts]
        for mask in masks:
            mask.flat[: self.calls * len(prompts)] = True
        return [Mask(data=mask, score=0.5) for mask in masks]


def test_a_segmenter_that_remembers_or_looks_at_its_batch_is_noticed():
    names(
        of=broken_by(check_segmenter, Moody),
        memory="the same prompts give the same masks every time: 37x53 image",
        company="a mask does not depend on the prompts beside its own",
    )


class Batched:
    """Right one by one; its batch forgets an image."""

    accepts = frozenset({"box"})

    def __init__(self, *, refuse: bool = True) -> None:
        self.refuse = refuse

    def __repr__(self) -> str:
        return f"Batched(refuse={self.refuse})"

    def segment(self, image, prompts):
        if self.refuse and any(prompt.box is None or not prompt.box.valid for prompt in prompts):
            raise SegmenterError("needs a box")
        return [Mask(data=np.ones(image.shape[:2], bool), score=1.0) for _ in prompts]

    def segment_batch(self, images, prompts):
        return [self.segment(image, asked) for image, asked in zip(images, prompts, strict=True)][1:]


class Unlicensed(Batched):
    published = (
        Published("someone/glow", stated(None)),
        Published("no hub id", Terms(licence=None, commercial=True, note="ours")),
        Published("someone/fine", stated(None, "the authors state none")),
    )

    def segment_batch(self, images, prompts):
        return [self.segment(image, asked) for image, asked in zip(images, prompts, strict=True)]


def test_published_weights_without_terms_are_noticed():
    assert broken_by(check_segmenter, Unlicensed) == [
        "published weights state their licence, or in a note why there is none: someone/glow",
        "published weights have a hub id, or are a file of the package: no hub id",
        "weights without a licence do not allow commercial use: no hub id",
    ]


def test_published_weights_are_declared_by_type():
    class Old(Unlicensed):
        published = "someone/glow"

    names(of=broken_by(check_segmenter, Old), published="published is a tuple of medground.licences.Published")


def test_a_wrong_batch_is_noticed_and_refusing_nonsense_is_not():
    assert broken_by(check_segmenter, Batched) == [
        "segment_batch gives what segment gives for each image: 2 lists for 3 images"
    ]


def test_what_a_closure_makes_cannot_be_pickled():
    def make():
        return Batched()

    names(of=broken_by(check_segmenter, make), closure="the factory can be pickled")


class WrongReward:
    """Assumes everything is there, peeks at a mask it does not ask for, leaves its range, and holds a lambda."""

    needs_mask = False
    range = (0, 1)

    def __init__(self, scale: float):
        self.scale = lambda value: value * scale
        self.seen = 0

    def __call__(self, rollout):
        self.seen += 1
        if rollout.mask is None:
            return RewardResult(float("nan"))
        rollout.mask.data[:] = True
        return RewardResult(self.scale(2.0 + self.seen + rollout.grounding.region.box.x1), {1: 2})

    def batch(self, rollouts):
        return [RewardResult(0.5)]


def test_at_least_five_broken_promises_of_a_wrong_reward_are_named():
    broken = broken_by(check_reward, WrongReward, scale=1.0)
    assert len(broken) >= 5
    names(
        of=broken,
        default="every parameter needs a default: scale",
        keyword="every parameter must be keyword-only",
        pickle="it can be pickled",
        range="a value lies in the range declared: the perfect answer scores",
        finite="a value is a finite float or None: no mask scores nan",
        total="every rollout can be scored: points alone raises AttributeError",
        details="details are a mapping with string keys: {1: 2}",
    )


class Impure:
    """In range, but it has a memory, changes the mask, reads it although it says it does not."""

    needs_mask = False
    range = (0.0, 1.0)

    def __init__(self, *, step: float = 0.001) -> None:
        self.step, self.seen = step, 0

    def __repr__(self) -> str:
        return f"Impure(step={self.step})"

    def __call__(self, rollout):
        self.seen += 1
        if rollout.mask is not None:
            rollout.mask.data[self.seen % 37, 0] ^= True
        return RewardResult(0.5 * (rollout.mask is None) + self.step * self.seen)

    def batch(self, rollouts):
        return [RewardResult(0.9) for _ in rollouts]


def test_an_impure_reward_is_noticed():
    names(
        of=broken_by(check_reward, Impure),
        memory="the same rollout scores the same every time: the perfect answer scores 0.001, then 0.002",
        mutation="scoring leaves the rollout as it is",
        peeking="a term with needs_mask = False does not read the mask",
        batch="batch gives what calling gives for each rollout",
    )


class WrongInterface:
    """Talks first, forgets the question, believes every model, writes y first, and rounds to tens."""

    provides = {"box"}  # noqa: RUF012 wrong on purpose: not a frozenset

    def __init__(self, *, digits: int = -1):
        self.digits = digits

    def render(self, query):
        content = [{"type": "text", "text": "Where is it?"}, {"type": "image", "image": query.image[::2]}]
        return [{"role": "system", "content": "Be good."}, {"role": "user", "content": content}]

    def parse(self, completion, size):
        numbers = [float(word) for word in completion.text.split()]
        return Grounding(regions=(Region(box=Box(*numbers)),), answer_level=2.0)

    def answer(self, target, think=None, *, frame=None, size=None):
        return " ".join(str(round(value, self.digits)) for value in target.region.box)


def test_at_least_five_broken_promises_of_a_wrong_prompt_interface_are_named():
    broken = broken_by(check_prompt_interface, WrongInterface)
    assert len(broken) >= 5
    names(
        of=broken,
        provides="provides is a non-empty frozenset out of",
        turns="render gives one user turn, image first: the turns are ['system', 'user']",
        total="parse never raises, whatever the text: '' raises TypeError",
        level="answer_level lies in [0, 1]: 2.0",
        repr="its repr shows its settings",
    )


def test_an_answer_in_the_wrong_frame_drifts():
    broken = broken_by(check_prompt_interface, FrameBlind)
    names(of=broken, box="box: at most half a model unit of drift", points="points: at most half")


class FrameBlind(factory("prompt_interface", "bbox_points")):
    """Reads every number as pixels of the original, as most published code does."""

    def parse(self, completion, size):
        return super().parse(replace(completion, frame=None), size)


class WrongReasoner:
    """One completion too few, no frame, a fault of its own finding, and it talks about its neighbours."""

    def __init__(self, **options):
        self.options = options

    def generate(self, batch, sampling):
        for messages in batch:
            messages[0]["content"][1]["text"] += " Please."
        said = f"{len(batch)} at once"
        completion = Completion(text=said, frame=None, logprobs=np.ones(3, np.float64), token_ids=np.ones(2))
        return tuple([[completion] * (sampling.num_generations - 1)] * max(1, len(batch)))


class Chatty:
    """Well-formed, but its text depends on the batch, the order and the count."""

    def __init__(self, *, greeting: str = "Hi"):
        self.greeting = greeting

    def __repr__(self) -> str:
        return f"Chatty(greeting={self.greeting!r})"

    def generate(self, batch, sampling):
        return [
            [
                Completion(
                    text=f"{self.greeting} {index} of {len(batch)} and {sampling.num_generations}",
                    frame=None,
                    fault=Fault.TIMEOUT,
                )
            ]
            * sampling.num_generations
            for index in range(len(batch))
        ]


def test_at_least_five_broken_promises_of_a_wrong_reasoner_are_named():
    broken = broken_by(check_reasoner, WrongReasoner) + broken_by(check_reasoner, Chatty)
    assert len(broken) >= 5
    names(
        of=broken,
        keyword="every parameter must be keyword-only",
        mutation="generate leaves the messages as they are",
        outer="generate gives a list with one list per conversation",
        order="a completion does not depend on the order of the batch",
        company="a completion does not depend on what else is in the batch",
        count="a completion does not depend on how many are asked for",
    )


def test_what_a_factory_raises_is_the_cause():
    with pytest.raises(ConformanceError) as caught, contextlib.suppress(OSError):
        check_reward(WrongReward)
    assert isinstance(caught.value.__cause__, TypeError)
    assert len(caught.value.broken) >= 3


def test_the_guide_shows_the_third_party_plugin_as_it_is():
    guide = (ALIEN.parents[1] / "docs" / "plugin-authors.md").read_text()
    assert (ALIEN / "medground_bright.py").read_text() in guide


class Encoder:
    """Stands for a network: counts nothing, makes an embedding of a picture."""

    def encode(self, image):
        return image.astype(np.float32) / 255


class Careful:
    """Encodes an image once, keeps it by its content, encodes none without prompts; the others do one thing wrong."""

    accepts = frozenset({"box"})

    def __init__(self, *, level: float = 0.5) -> None:
        self.level, self.encoder, self.held = level, Encoder(), (None, None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(level={self.level})"

    def key(self, image):
        return image.tobytes()

    def embedding(self, image):
        if self.held[0] != self.key(image):
            self.held = (self.key(image), self.encoder.encode(image))
        return self.held[1]

    def segment(self, image, prompts):
        if not prompts:
            return []
        embedding = self.embedding(image)
        return [self.decode(embedding, prompt) for prompt in prompts]

    def decode(self, embedding, prompt):
        inside = np.zeros(embedding.shape[:2], bool)
        x1, y1, x2, y2 = (max(0, round(value)) for value in prompt.box or (0, 0, 0, 0))
        inside[y1:y2, x1:x2] = True
        return Mask(data=(embedding.mean(axis=2) > self.level) & inside, score=1.0)


class EncodesForEveryPrompt(Careful):
    def segment(self, image, prompts):
        return [self.decode(self.encoder.encode(image), prompt) for prompt in prompts]


class EncodesWithoutPrompts(Careful):
    def segment(self, image, prompts):
        embedding = self.embedding(image)
        return [self.decode(embedding, prompt) for prompt in prompts]


class EncodesTheFirstImageAlone(Careful):
    def key(self, image):
        return "the image"


class EncodesTheFirstOfEverySize(Careful):
    def key(self, image):
        return image.shape


class EncodesTheFirstInAnArray(Careful):
    def key(self, image):
        return image.ctypes.data


class Setter(Careful):
    """In the style of a predictor: its encoding stays in another object, and is made again for every prompt."""

    class Predictor:
        def set_image(self, image):
            self.embedding = image.astype(np.float32) / 255

    def __init__(self, *, level: float = 0.5) -> None:
        super().__init__(level=level)
        self.predictor = self.Predictor()

    def segment(self, image, prompts):
        masks = []
        for prompt in prompts:
            self.predictor.set_image(image)
            masks.append(self.decode(self.predictor.embedding, prompt))
        return masks


ONCE = "an image is encoded once, however many prompts there are"
NONE = "no prompts give [] without encoding"
ANEW = "another image is encoded anew, also in the same array"


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    ("wrong", "promise", "culprit"),
    [
        (EncodesForEveryPrompt, ONCE, "Encoder.encode takes it 4 times for 4 prompts, 1 for one"),
        (Setter, ONCE, "Setter.Predictor.set_image takes it 4 times for 4 prompts, 1 for one"),
        (EncodesWithoutPrompts, NONE, "Encoder.encode takes the image"),
        (EncodesTheFirstImageAlone, ANEW, "Encoder.encode takes the first one alone"),
        (EncodesTheFirstOfEverySize, ANEW, "Encoder.encode takes the first one alone"),
        (EncodesTheFirstInAnArray, ANEW, "Encoder.encode takes the first one alone"),
    ],
)
def test_how_often_a_segmenter_encodes_is_counted(wrong, promise, culprit, quick):
    (sentence,) = (one for one in broken_by(check_segmenter, wrong, quick=quick) if "encode" in one)
    assert sentence.startswith(f"{promise}: ") and culprit in sentence


def test_one_encoding_per_image_is_right_whether_it_is_kept_or_not():
    check_segmenter(Careful)
    check_segmenter(Forgetful)


class Forgetful(Careful):
    """Keeps nothing between calls."""

    def embedding(self, image):
        return self.encoder.encode(image)


def test_modules_of_a_network_are_counted():
    pytest.importorskip("torch", reason="needs torch")
    names(of=broken_by(check_segmenter, NetworkPerPrompt), once=f"{ONCE}: ", module="4 times for 4 prompts, 1 for one")


class NetworkPerPrompt(Careful):
    """Prepares the picture once and runs the whole network for every prompt."""

    def __init__(self, *, level: float = 0.5) -> None:
        import torch

        super().__init__(level=level)
        torch.manual_seed(0)
        self.network = torch.nn.Conv2d(3, 3, 3, padding=1)

    def segment(self, image, prompts):
        import torch

        pixels = torch.from_numpy(image.astype(np.float32)).movedim(2, 0)[None] / 255
        with torch.no_grad():
            return [self.decode(self.network(pixels)[0].movedim(0, 2).numpy(), prompt) for prompt in prompts]


def test_counting_leaves_the_profiler_of_the_process_as_it_was():
    def profiler(frame, event, value):
        pass

    sys.setprofile(profiler)
    try:
        check_segmenter(Careful, quick=True)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)


def test_a_check_says_what_it_tries_while_it_runs_and_afterwards(caplog):
    with caplog.at_level("INFO", logger="medground.testing"):
        report = check_segmenter(Careful)
    assert [record.getMessage() for record in caplog.records] == [f"checking Careful: {what}" for what in report.checks]
    assert report.checks[0] == "one encoding of every new image, none without prompts"
    assert str(report).splitlines()[0] == f"Careful keeps its promises in {len(report.checks)} checks:"


@pytest.mark.parametrize("kind", CHECKS)
def test_a_quick_check_tries_less(kind):
    chosen = factory(kind, next(name for owner, name in BUILT_IN if owner == kind))
    whole, quick = CHECKS[kind](chosen), CHECKS[kind](chosen, quick=True)
    assert 0 < len(quick.checks) < len(whole.checks)


def test_the_engine_and_the_sampler_of_medground_conform():
    pytest.importorskip("torch", reason="needs torch")
    assert len(check_engine(factory("engine", "local")).checks) == 4
    assert len(check_rollout(factory("rollout", "hf")).checks) == 2


class WrongTracker:
    """Cannot be closed before it began, changes the metrics, and writes over the run's events."""

    def __init__(self, *, unit: str = "") -> None:
        self.unit = unit

    def __repr__(self) -> str:
        return f"WrongTracker(unit={self.unit!r})"

    def begin(self, folder, step):
        self.file = (folder / "events.jsonl").open("w")

    def log(self, step, metrics):
        metrics["step"] = step

    def close(self):
        self.file.close()


def test_a_wrong_tracker_is_told_what_it_breaks():
    names(
        of=broken_by(check_tracker, WrongTracker),
        unused="close works before begin: raises AttributeError",
        metrics="log leaves the metrics as they are",
        events="it leaves the run's own files as they are: events.jsonl",
    )


def test_a_wrong_engine_is_told_what_it_breaks():
    pytest.importorskip("torch", reason="needs torch")
    names(
        of=broken_by(check_engine, WrongEngine),
        zero_stage="zero_stage is int: None",
        clipped="steps are those of the optimizer given, with clipped gradients: parameters differ by",
        infinite="a gradient that is discarded or not finite changes nothing: parameters differ by",
        sums="all_reduce gives the sums over all ranks",
        saved="another engine continues exactly from what was saved: parameters differ by",
        other="load raises RunError for what was saved of another model",
    )


class WrongEngine:
    """Never clips, steps with anything, doubles sums, saves nothing."""

    rank, world_size, lockstep, zero_stage, offload = 0, 1, False, None, False

    def __init__(self, *, scale: float = 2.0) -> None:
        self.scale = scale

    def __repr__(self) -> str:
        return f"WrongEngine(scale={self.scale})"

    def prepare(self, policy, optimizer, *, max_grad_norm):
        self.policy, self.optimizer = policy, optimizer(policy.parameters())
        return policy

    def backward(self, loss):
        loss.backward()

    def step(self, learning_rate):
        import torch

        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), float("inf"))
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.discard()
        return float(norm)

    def discard(self):
        self.optimizer.zero_grad()

    def all_reduce(self, sums):
        return {name: self.scale * value for name, value in sums.items()}

    def gather(self, value):
        return [value]

    def full_parameters(self):
        return contextlib.nullcontext()

    def named_weights(self):
        yield from self.policy.state_dict().items()

    def save(self, folder):
        (folder / "nothing").touch()

    def load(self, folder):
        pass

    def shutdown(self):
        pass


class WrongSource:
    """Samples one completion too few, all with the first seed, and forgets its tokens."""

    def __init__(self, *, fewer: int = 1) -> None:
        self.fewer = fewer

    def __repr__(self) -> str:
        return f"WrongSource(fewer={self.fewer})"

    def begin(self, reasoner, engine):
        self.reasoner = reasoner

    def sync(self, weights, version):
        pass

    def generate(self, batch, sampling, seeds):
        fewer = replace(sampling, num_generations=sampling.num_generations - self.fewer)
        groups = self.reasoner.generate(batch, fewer, [sum(seeds)] * len(batch))
        return tuple([replace(one, logprobs=None) for one in group] for group in groups)

    def sleep(self):
        pass

    def close(self):
        raise OSError("busy")


def test_a_wrong_rollout_source_is_told_what_it_breaks():
    names(
        of=broken_by(check_rollout, WrongSource),
        counts="one list per conversation, of num_generations completions: [2, 2, 2]",
        tokens="completions carry token_ids and one logprob each: (4,) int32 and None",
        seeds="a completion depends on the seed of its own conversation",
        none="no conversations give []: ()",
        close="close works: raises OSError: busy",
    )


class TokensForEveryPrompt(Careful):
    """Decodes prompt by prompt, and computes the same of the image's tokens each time, as the decoder of SAM does."""

    def project(self, tokens):
        return tokens * 2

    def decode(self, embedding, prompt):
        height, width, channels = embedding.shape
        tokens = np.repeat(embedding.reshape(1, height * width, channels), 8, axis=2)
        self.project(tokens)
        return super().decode(embedding, prompt)


def test_a_decoder_may_compute_the_same_of_an_embedding_for_every_prompt():
    check_segmenter(TokensForEveryPrompt, quick=True)
