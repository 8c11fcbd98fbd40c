"""Text and exemplars as prompts, instances and presence as answers: what travels, what is kept, what the kit checks."""

import importlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medground.errors import SegmenterError
from medground.geometry import Box
from medground.pipeline.cache import StageCache
from medground.segmenters.batching import PredictorSegmenter
from medground.segmenters.embedding import EmbeddingSegmenter
from medground.testing import ConformanceError, check_segmenter
from medground.types import (
    Mask,
    SpatialPrompt,
    union,
)

BOX = Box(1, 1, 3, 3)
EMPTY = np.zeros((4, 5), bool)


def mask(*columns: int, **words) -> Mask:
    data = EMPTY.copy()
    data[:, list(columns)] = True
    return Mask(data=data, **words)


def test_a_prompt_is_of_every_kind_that_it_carries():
    assert SpatialPrompt(text="lung nodule").kinds == {"text"}
    assert SpatialPrompt(exemplars=(BOX,)).kinds == {"exemplars"}
    assert SpatialPrompt(text="cyst", exemplars=(BOX, BOX), box=BOX).kinds == {"text", "exemplars", "box"}


@pytest.mark.parametrize("words", [{}, {"text": " \n"}, {"exemplars": ()}])
def test_a_prompt_that_says_nothing_is_none(words):
    with pytest.raises(ValueError, match="a spatial prompt needs a box, points, a text or exemplars"):
        SpatialPrompt(**words)


def test_only_an_empty_mask_with_a_presence_says_that_nothing_is_there():
    assert mask(presence=0.1).absent
    assert not mask().absent
    assert not mask(2, presence=0.1).absent


def test_a_mask_shows_instances_and_presence_where_it_has_them():
    assert repr(mask(1, 2, score=0.5)) == "Mask(8 of 4 x 5 px, score 0.5)"
    full = mask(1, 2, score=0.5, presence=0.75, instances=(mask(1), mask(2)))
    assert repr(full) == "Mask(8 of 4 x 5 px, score 0.5, 2 instances, presence 0.75)"


def test_a_union_has_the_instances_of_all_and_is_present_if_one_part_is():
    first, second = mask(0, presence=0.9, instances=(mask(0),)), mask(3, presence=0.2, instances=(mask(3),))
    joined = union([first, second])
    assert [one.data.any(axis=0).tolist().index(True) for one in joined.instances] == [0, 3]
    assert joined.presence == 0.9
    assert union([first, mask(3)]).presence is None


def test_masks_are_kept_with_instances_and_presence_under_the_whole_prompt(tmp_path):
    prompts = [
        SpatialPrompt(box=BOX),
        SpatialPrompt(exemplars=(BOX,)),
        SpatialPrompt(text="cyst"),
        SpatialPrompt(text="node"),
        SpatialPrompt(text="cyst", exemplars=(BOX,)),
        SpatialPrompt(text="cyst", box=BOX),
    ]
    cache = StageCache(tmp_path)
    for number, prompt in enumerate(prompts):
        parts = (mask(0, score=0.25), mask(1, score=0.5))
        cache.put_mask("it", "image", prompt, mask(0, 1, score=float(number), presence=number / 8, instances=parts))
    cache.put_mask("it", "other", prompts[0], mask())
    for stored in (cache, StageCache(tmp_path)):
        for number, prompt in enumerate(prompts):
            again = stored.mask("it", "image", prompt)
            assert (again.score, again.presence) == (number, number / 8)
            assert [(one.score, int(one.data.sum())) for one in again.instances] == [(0.25, 4), (0.5, 4)]
            assert np.array_equal(again.instances[1].data, mask(1).data)
        without = stored.mask("it", "other", prompts[0])
        assert without.presence is None and without.instances == ()


class Wordy:
    """Marks the bright half of an image for any text, as two instances; what is wrong with it is set by `flaw`."""

    accepts = frozenset({"text", "exemplars"})

    def __init__(self, *, flaw: str = "") -> None:
        self.flaw = flaw

    def __repr__(self) -> str:
        return f"Wordy(flaw={self.flaw!r})"

    def segment(self, image, prompts):
        return [self._one(image.mean(axis=2), prompt) for prompt in prompts]

    def _one(self, grey, prompt):
        if self.flaw == "unknown words" and prompt.text and "region" not in prompt.text:
            raise KeyError(prompt.text)
        if prompt.text and "region" not in prompt.text:
            return Mask(data=np.zeros(grey.shape, bool), score=0.0, presence=0.0)
        bright = grey > 128
        left = bright & (np.arange(grey.shape[1]) < grey.shape[1] / 2)
        parts = tuple(Mask(data=part, score=0.5) for part in (left, bright & ~left))
        if self.flaw == "one instance too few":
            parts = parts[:1]
        if self.flaw == "small instances":
            parts = tuple(replace(part, data=part.data[::2]) for part in parts)
        instances = list(parts) if self.flaw == "a list" else parts
        presence = {"percent": 93.0, "a word": "yes"}.get(self.flaw, 0.9)
        return Mask(data=bright, score=0.5, instances=instances, presence=presence)


def test_the_kit_passes_a_segmenter_of_texts_and_exemplars_that_says_what_is_absent():
    checks = check_segmenter(Wordy).checks
    assert "a text in words that nobody knows" in checks
    assert "37x53 image, 5 prompts together, alone, backwards, and none" in checks


@pytest.mark.parametrize(
    ("flaw", "promise"),
    [
        (
            "unknown words",
            "any text gives a mask, an empty one where nothing of the kind is there: a text in words that",
        ),
        ("one instance too few", "a mask is the union of its instances: 37x53 image"),
        (
            "small instances",
            "a mask is bool at the size of its image: (19, 53) bool for a (37, 53) image (an instance,",
        ),
        ("a list", "a mask's instances are a tuple"),
        ("percent", "a mask's presence is a float in [0, 1], or None: 93.0"),
        ("a word", "a mask's presence is a float in [0, 1], or None: 'yes'"),
    ],
)
def test_the_kit_names_what_is_wrong_with_instances_presence_and_words(flaw, promise):
    with pytest.raises(ConformanceError) as error:
        check_segmenter(Wordy, flaw=flaw)
    assert any(sentence.startswith(promise) for sentence in error.value.broken), error.value.broken


class Encoding(Wordy):
    """Encodes the image anew for every prompt, whatever its kind."""

    def segment(self, image, prompts):
        return [self._one(self.encoded(image), prompt) for prompt in prompts]

    def encoded(self, image):
        return image.mean(axis=2)


def test_the_kit_counts_the_encodings_of_an_image_that_is_prompted_by_several_kinds():
    with pytest.raises(
        ConformanceError, match=r"an image is encoded once, .* takes it 6 times for 6 prompts, 1 for one"
    ):
        check_segmenter(Encoding)


class Rows(EmbeddingSegmenter):
    """Marks everything; its embedding is the mean of the image."""

    model = "rows"

    def __init__(self) -> None:
        super().__init__(locals(), preprocessing="")

    def encode(self, images):
        return [image.mean(keepdims=True) for image in images]

    def decode(self, images, embeddings, items):
        return [(np.ones(images[number].shape[:2], np.float32), 1.0) for number, _ in items]


class Readers(Rows):
    accepts = frozenset({"box", "text"})


@pytest.mark.parametrize("segmenter", [Rows(), PredictorSegmenter(object())])
@pytest.mark.parametrize(("words", "unread"), [({"text": "cyst"}, "text"), ({"exemplars": (BOX,)}, "exemplars")])
def test_a_text_or_exemplars_beside_a_box_are_refused_by_a_model_that_cannot_read_them(segmenter, words, unread):
    with pytest.raises(SegmenterError, match=f"cannot read {unread}: SpatialPrompt"):
        segmenter.segment(np.zeros((4, 5, 3), np.uint8), [SpatialPrompt(box=BOX), SpatialPrompt(box=BOX, **words)])


def test_a_model_that_reads_texts_is_given_them():
    assert Readers().segment(np.zeros((4, 5, 3), np.uint8), [SpatialPrompt(text="cyst")])[0].data.all()


DOCS = Path(__file__).parents[1] / "docs"


def test_the_documented_segmenter_of_texts_is_a_plugin_of_24_lines_at_most(tmp_path, monkeypatch):
    page = (DOCS / "segmenters.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# file: medground_shade.py\n(.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) <= 24
    (tmp_path / "medground_shade.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    shade = importlib.import_module("medground_shade").Shade
    assert "a text in words that nobody knows" in check_segmenter(shade).checks
    (bright,) = shade().segment(np.full((4, 5, 3), 255, np.uint8), [SpatialPrompt(text="the bright one")])
    assert bright.data.all() and len(bright.instances) == 1 and not bright.absent
