import pickle

import numpy as np
import pytest

from medground.errors import SegmenterError, SegmenterMemoryError
from medground.pipeline.cache import StageCache
from medground.pipeline.masks import segment
from medground.segmenters.batching import (
    EmbeddingCache,
    PredictorSegmenter,
    by_kind,
    image_key,
    in_chunks,
    out_of_memory,
    size_of,
)
from medground.types import Fault, Mask, SpatialPrompt


def test_keys_follow_content_and_preprocessing():
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert image_key(image) == image_key(np.asfortranarray(image)) == image_key(image[::-1][::-1])
    assert image_key(image) != image_key(image[..., ::-1])
    assert image_key(image, "a") != image_key(image, "b")


def test_prompts_are_grouped_by_box_text_and_number_of_points_and_exemplars():
    prompts = [
        SpatialPrompt(box=(0, 0, 1, 1)),
        SpatialPrompt(points=((1, 1), (2, 2))),
        SpatialPrompt(box=(0, 0, 1, 1), points=((1, 1), (2, 2))),
        SpatialPrompt(points=((1, 1), (2, 2)), labels=(1, 0)),
        SpatialPrompt(points=((1, 1),)),
        SpatialPrompt(text="nodule"),
        SpatialPrompt(text="nodule", exemplars=((0, 0, 1, 1), (2, 2, 3, 3))),
        SpatialPrompt(text="vessel"),
    ]
    assert by_kind(prompts) == {
        (True, 0, False, 0): [0],
        (False, 2, False, 0): [1, 3],
        (True, 2, False, 0): [2],
        (False, 1, False, 0): [4],
        (False, 0, True, 0): [5, 7],
        (False, 0, True, 2): [6],
    }
    assert by_kind([]) == {}


class Limited:
    """Work that runs out of memory above `most` items, as PyTorch's CPU allocator says it."""

    def __init__(self, most: int) -> None:
        self.most, self.asked = most, []

    def __call__(self, items):
        self.asked.append(len(items))
        if len(items) > self.most:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")
        return [item * 2 for item in items]


@pytest.mark.parametrize(("most", "asked"), [(9, [4, 4, 2]), (2, [4, 2, 2, 2, 2, 2]), (1, [4, 2, 1, 1] + [1] * 8)])
def test_memory_running_out_halves_the_chunk_and_goes_on(most, asked):
    work = Limited(most)
    assert in_chunks(range(10), work, size=4) == [item * 2 for item in range(10)]
    assert work.asked == asked


def test_memory_running_out_for_one_item_names_the_cause():
    with pytest.raises(SegmenterMemoryError, match=r"single item.*not enough memory") as caught:
        in_chunks([1, 2], Limited(0), size=2)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_other_errors_are_not_taken_for_memory():
    def broken(items):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_chunks([1], broken, size=1)
    with pytest.raises(SegmenterError, match="asked for 2"):
        in_chunks([1, 2], lambda items: items[:1], size=2)


def test_what_counts_as_out_of_memory():
    torch = pytest.importorskip("torch")
    assert out_of_memory(MemoryError()) and out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(ValueError("out of memory"))


def embedding(position: int) -> np.ndarray:
    return np.full(25, position, np.float32)  # 100 bytes


def test_cache_encodes_each_image_once_and_counts():
    cache, calls = EmbeddingCache(1000), []

    def encode(positions):
        calls.append(positions)
        return [embedding(position) for position in positions]

    first = cache.fetch(["a", "b", "a"], encode)
    again = cache.fetch(["b", "c"], encode)
    assert calls == [[0, 1], [1]]
    assert [array[0] for array in first] == [0, 1, 0] and [array[0] for array in again] == [1, 1]
    cache.fetch(["a", "b", "c"], encode)
    assert len(calls) == 2
    assert (cache.stats.hits, cache.stats.misses, cache.stats.bytes) == (5, 3, 300)
    assert cache.stats.hit_rate == pytest.approx(5 / 8)


def test_cache_is_bounded_and_drops_the_least_recently_used():
    cache = EmbeddingCache(250)
    for keys in (["a"], ["b"], ["a"], ["c"]):
        cache.fetch(keys, lambda positions: [embedding(position) for position in positions])
    assert len(cache) == 2 and cache.stats.bytes == 200 and cache.stats.evictions == 1
    missed = []
    cache.fetch(["a", "c", "b"], lambda positions: [missed.append(position) or embedding(0) for position in positions])
    assert missed == [2]


def test_an_embedding_beyond_the_bound_is_used_but_not_kept():
    cache = EmbeddingCache(50)
    assert cache.fetch(["a"], lambda positions: [embedding(7)])[0][0] == 7
    assert len(cache) == 0 and cache.stats.bytes == 0


def test_a_pickled_cache_starts_empty():
    cache = EmbeddingCache(500)
    cache.fetch(["a"], lambda positions: [embedding(1)])
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.max_bytes, len(copy)) == (500, 0)


def test_size_of_counts_nested_arrays():
    assert size_of([np.zeros(4, np.uint8), (np.zeros(2, np.float64),)]) == 20


class Predictor:
    """Three masks: nothing, the prompt's box, everything; the middle one is the best."""

    def __init__(self) -> None:
        self.set_count, self.asked = 0, []

    def set_image(self, image):
        self.set_count += 1
        self.size = image.shape[:2]

    def predict(self, point_coords=None, point_labels=None, box=None, multimask_output=True):
        self.asked.append((point_coords, point_labels, box))
        masks = np.zeros((3, *self.size), np.float32)
        if box is not None:
            x1, y1, x2, y2 = box.astype(int)
            masks[1, y1:y2, x1:x2] = 1
        masks[2] = 1
        return masks, np.array([0.1, 0.9, 0.5]), np.zeros((3, 4, 4))


def test_any_predictor_becomes_a_segmenter():
    predictor = Predictor()
    segmenter = PredictorSegmenter(predictor)
    assert repr(segmenter) == "PredictorSegmenter(Predictor)"
    image = np.zeros((20, 30, 3), np.uint8)
    assert segmenter.segment(image, []) == [] and predictor.set_count == 0
    box, click = SpatialPrompt(box=(2, 3, 10, 9)), SpatialPrompt(points=((4.5, 5.5), (1, 1)), labels=(1, 0))
    masks = segmenter.segment(image, [box, click])
    assert masks[0].data.dtype == bool and masks[0].data.shape == (20, 30) and masks[0].data.sum() == 48
    assert masks[0].score == 0.9 and not masks[1].data.any()
    points, labels, no_box = predictor.asked[1]
    assert points.tolist() == [[4.5, 5.5], [1, 1]] and labels.tolist() == [1, 0] and no_box is None
    segmenter.segment(image.copy(), [box])
    assert predictor.set_count == 1
    segmenter.segment(image + np.uint8(1), [box])
    assert predictor.set_count == 2


def test_a_predictor_with_masks_of_another_size_is_an_error():
    predictor = Predictor()
    predictor.set_image = lambda image: setattr(predictor, "size", (5, 5))
    with pytest.raises(SegmenterError, match=r"\(5, 5\) for an image of \(20, 30\)"):
        PredictorSegmenter(predictor).segment(np.zeros((20, 30, 3), np.uint8), [SpatialPrompt(box=(0, 0, 2, 2))])


class Choosy:
    """Marks everything; fails, in a batch too, where an image is black, as a library does: with an error of its own."""

    accepts = frozenset({"box"})

    def segment(self, image, prompts):
        return self.segment_batch([image], [prompts])[0]

    def segment_batch(self, images, prompts):
        if not all(image.any() for image in images):
            raise ValueError("black images are not supported")
        return [[Mask(data=image.any(axis=2)) for _ in mine] for image, mine in zip(images, prompts, strict=True)]


class Picky:
    """Marks the first pixel of a box; fails where one of its prompts has no area."""

    accepts = frozenset({"box"})

    def __init__(self):
        self.calls = []

    def segment(self, image, prompts):
        self.calls.append(len(prompts))
        if any(prompt.box[0] == prompt.box[2] for prompt in prompts):
            raise SegmenterError("a box without area")
        return [Mask(data=np.indices(image.shape[:2])[1] == prompt.box[0]) for prompt in prompts]

    def segment_batch(self, images, prompts):
        return [self.segment(image, mine) for image, mine in zip(images, prompts, strict=True)]


def test_a_prompt_that_a_segmenter_fails_on_costs_its_own_mask_alone():
    image, other = np.zeros((4, 5, 3), np.uint8), np.ones((4, 5, 3), np.uint8)
    boxes = [SpatialPrompt(box=(x, 0, x + 1, 1)) for x in range(4)]
    bad = SpatialPrompt(box=(2, 0, 2, 1))
    picky, cache = Picky(), StageCache()
    answers = [(image, [boxes[0]]), (image, [bad]), (other, [boxes[1], bad]), (image, boxes[2:])]
    first, second, third, fourth = segment(lambda: picky, answers, cache, "picky")
    assert [column(mask) for mask in (*first.masks, *fourth.masks)] == [0, 2, 3]
    assert {first.fault, fourth.fault} == {None}
    assert second.fault is Fault.SEGMENTER and "a box without area" in second.cause and second.masks == (None,)
    assert third.fault is Fault.SEGMENTER and column(third.masks[0]) == 1 and third.masks[1] is None
    picky.calls.clear()
    again = segment(lambda: picky, answers, cache, "picky")
    assert [outcome.fault for outcome in again] == [None, Fault.SEGMENTER, Fault.SEGMENTER, None]
    assert picky.calls.count(1) == len(picky.calls), "what was answered comes from the cache; a failure is tried again"


def column(mask) -> int:
    return int(mask.data[0].argmax())


def test_an_image_that_a_batch_fails_on_costs_its_own_masks_alone():
    white, black = np.full((4, 5, 3), 255, np.uint8), np.zeros((4, 5, 3), np.uint8)
    prompt = SpatialPrompt(box=(0, 0, 1, 1))
    fine, broken = segment(Choosy, [(white, [prompt]), (black, [prompt])], None, "")
    assert fine.mask.data.all() and fine.fault is None
    assert broken.fault == Fault.SEGMENTER and "black images are not supported" in broken.cause
