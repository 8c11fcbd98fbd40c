"""Images are encoded once and prompts decoded together, with bounded memory and frozen weights."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from medground_sam import MedSam, Sam, SamMed2D

from medground.errors import SegmenterError, SegmenterMemoryError
from medground.geometry import Box
from medground.types import SpatialPrompt


class Calls:
    """Count the calls and rows of encoder and decoder through forward hooks."""

    def __init__(self, segmenter: Sam) -> None:
        network = segmenter.codec.network
        self.encoded: list[int] = []
        self.decoded = 0
        network.encoder.register_forward_hook(lambda module, args, output: self.encoded.append(len(args[0])))
        network.module.mask_decoder.register_forward_hook(self._decoded)

    def _decoded(self, module, args, output) -> None:
        self.decoded += 1


def group(size, count, seed=0):
    """Return the prompts of `count` rollouts of one query: boxes that differ a little."""
    rng = np.random.default_rng(seed)
    box = np.array([size[1] * 0.2, size[0] * 0.2, size[1] * 0.7, size[0] * 0.7])
    return [SpatialPrompt(box=Box(*(box + rng.uniform(-3, 3, 4)))) for _ in range(count)]


def test_a_group_an_evaluation_and_a_rerun_encode_an_image_once(sam_file, make_picture):
    segmenter = Sam(checkpoint=sam_file)
    calls, image = Calls(segmenter), make_picture((60, 80))
    segmenter.segment(image, group((60, 80), 16))
    assert calls.encoded == [1] and calls.decoded == 1
    clicks = SpatialPrompt(points=((20, 20), (30, 31)))
    for prompts in (
        [clicks],
        [SpatialPrompt(box=(5, 5, 50, 40))],
        [SpatialPrompt(box=(5, 5, 50, 40), points=clicks.points)],
    ):
        segmenter.segment(image.copy(), prompts)
    assert calls.encoded == [1] and calls.decoded == 4
    assert (segmenter.stats.misses, segmenter.stats.hits) == (1, 3)


def test_many_images_are_decoded_in_one_call_per_kind(sam_file, make_picture, make_prompts):
    segmenter = Sam(checkpoint=sam_file, encode_batch=4)
    calls = Calls(segmenter)
    images = [make_picture((30, 40 + index), seed=index) for index in range(5)]
    prompts = [make_prompts(image.shape[:2]) for image in images]
    prompts[2] = []
    segmenter.segment_batch([*images, images[0]], [*prompts, prompts[0][:1]])
    assert calls.encoded == [4] and calls.decoded == 3  # box, two clicks, both: whatever their labels


def test_without_prompts_nothing_is_encoded(sam_file, make_picture):
    segmenter = Sam(checkpoint=sam_file)
    calls = Calls(segmenter)
    assert segmenter.segment(make_picture((20, 20)), []) == [] and segmenter.segment_batch([], []) == []
    assert calls.encoded == []


def test_the_cache_is_bounded(sam_file, make_picture):
    segmenter = Sam(checkpoint=sam_file, cache_mib=2 * 32 * 8 * 8 * 4 / 2**20)  # two embeddings
    calls = Calls(segmenter)
    for seed in (0, 1, 2, 2, 1, 0):
        segmenter.segment(make_picture((20, 30), seed=seed), group((20, 30), 1))
    assert len(calls.encoded) == 4 and segmenter.stats.evictions == 2
    assert segmenter.stats.bytes == 2 * 32 * 8 * 8 * 4


@pytest.mark.slow
@pytest.mark.parametrize("component", [Sam, MedSam, SamMed2D])
@pytest.mark.parametrize("backend", ["transformers", "official"])
def test_predictions_do_not_depend_on_the_batch(component, backend, sam_file, med2d_file, make_picture, make_prompts):
    checkpoint = med2d_file if component is SamMed2D else sam_file
    together = component(checkpoint=checkpoint, backend=backend, encode_batch=3, decode_batch=7)
    images = [make_picture((30, 44), seed=index) for index in range(3)]
    prompts = [make_prompts((30, 44)) + group((30, 44), 6, seed=index) for index in range(3)]
    result = together.run(images, prompts, lambda answer: answer)
    for index in (2, 0, 1):
        alone = component(checkpoint=checkpoint, backend=backend)
        order = np.random.default_rng(index).permutation(len(prompts[index]))
        single = {position: alone.logits(images[index], [prompts[index][position]])[0] for position in order}
        for position, (values, score) in enumerate(result[index]):
            np.testing.assert_allclose(values, single[position][0], atol=1e-5, rtol=0)
            assert score == pytest.approx(single[position][1], abs=1e-5)


def test_running_out_of_memory_halves_the_chunk_and_goes_on(sam_file, make_picture, monkeypatch):
    segmenter, image, prompts = Sam(checkpoint=sam_file), make_picture((30, 30)), group((30, 30), 11)
    expected = segmenter.segment(image, prompts)
    network, sizes = segmenter.codec.network, []
    decode = network.decode

    def small(embeddings, image_of, *rest):
        sizes.append(len(image_of))
        if len(image_of) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return decode(embeddings, image_of, *rest)

    monkeypatch.setattr(network, "decode", small)
    for mask, other in zip(segmenter.segment(image, prompts), expected, strict=True):
        assert (mask.data == other.data).mean() > 0.999
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 1]
    monkeypatch.setattr(network, "decode", lambda *rest: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
    with pytest.raises(SegmenterMemoryError, match=r"single item.*no room"):
        segmenter.segment(image, prompts)


def test_a_failing_network_is_a_segmenter_error_with_its_cause(sam_file, make_picture, monkeypatch):
    segmenter = Sam(checkpoint=sam_file)
    monkeypatch.setattr(segmenter.codec.network, "decode", lambda *rest: torch.ones(2) @ torch.ones(3))
    with pytest.raises(SegmenterError, match=r"sam failed: .*size"):
        segmenter.segment(make_picture((30, 30)), group((30, 30), 1))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_nonfinite_prompts_are_refused(sam_file, make_picture, number):
    for prompt in (SpatialPrompt(box=Box(1, 2, number, 9)), SpatialPrompt(points=((number, 3),))):
        with pytest.raises(SegmenterError, match="finite"):
            Sam(checkpoint=sam_file).segment(make_picture((30, 30)), [prompt])


def test_parameters_are_frozen_and_never_change(med2d_file, make_picture, make_prompts):
    segmenter = SamMed2D(checkpoint=med2d_file)
    module = segmenter.codec.network.module

    def digest() -> str:
        state = hashlib.sha256()
        for name, tensor in sorted(module.state_dict().items()):
            state.update(name.encode() + tensor.numpy().tobytes())
        return state.hexdigest()

    before = digest()
    assert not any(parameter.requires_grad for parameter in module.parameters()) and not module.training
    with torch.enable_grad():
        segmenter.segment(make_picture((30, 40)), make_prompts((30, 40)))
        assert not any(stored.requires_grad for stored in segmenter.cache._embeddings.values())
    assert digest() == before


def test_dtype_applies_to_the_encoder_only(sam_file, make_picture, make_prompts):
    image, prompts = make_picture((40, 40)), make_prompts((40, 40))
    exact, rough = (Sam(checkpoint=sam_file, dtype=dtype) for dtype in ("float32", "bfloat16"))
    network = rough.codec.network
    assert next(network.encoder.parameters()).dtype == torch.bfloat16
    assert next(network.module.mask_decoder.parameters()).dtype == torch.float32
    for (values, _), (other, _) in zip(rough.logits(image, prompts), exact.logits(image, prompts), strict=True):
        assert values.dtype == np.float32 and np.corrcoef(values.ravel(), other.ravel())[0, 1] > 0.9


@pytest.mark.soak
def test_a_compiled_encoder_gives_the_same_masks(sam_file, make_picture, make_prompts):
    image, prompts = make_picture((40, 40)), make_prompts((40, 40))
    plain, compiled = (Sam(checkpoint=sam_file, compile=compile) for compile in (False, True))
    for (values, _), (other, _) in zip(compiled.logits(image, prompts), plain.logits(image, prompts), strict=True):
        np.testing.assert_allclose(values, other, atol=1e-4)


def test_a_pickled_segmenter_is_built_again(sam_file, make_picture):
    segmenter, image = MedSam(checkpoint=sam_file, decode_batch=5), make_picture((30, 30))
    copy = pickle.loads(pickle.dumps(segmenter))
    assert repr(copy) == repr(segmenter) and "decode_batch=5" in repr(copy) and copy.stats.misses == 0
    first, second = (one.segment(image, group((30, 30), 1))[0] for one in (segmenter, copy))
    assert (first.data == second.data).all() and first.score == second.score
