"""Both backends equal Meta's SAM2ImagePredictor on the same file."""

import numpy as np
import pytest
import torch
from medground_sam2 import MedSam2, Sam2
from medground_sam2.layout import Unseen, architecture, original_name, without_video
from medground_sam2.models import sam2_config, to_original
from medground_sam2.official import official_model

from medground.segmenters.pixels import MEAN, STD, to_square
from medground.types import SpatialPrompt

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")

BACKENDS = ("transformers", "official")


def prompts(image: np.ndarray) -> list[SpatialPrompt]:
    height, width = image.shape[:2]
    box = (0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height)
    near, far = (0.3 * width, 0.4 * height), (0.8 * width, 0.1 * height)
    return [
        SpatialPrompt(box=box),
        SpatialPrompt(points=(near,)),
        SpatialPrompt(points=(near, far)),
        SpatialPrompt(points=(near, far), labels=(1, 0)),
        SpatialPrompt(box=box, points=(near, far)),
        SpatialPrompt(box=(0, 0, width, height), points=(near, far), labels=(0, 1)),
    ]


def ask(predictor, prompt: SpatialPrompt, multimask: bool) -> tuple[np.ndarray, float]:
    """Return the predictor's best mask as logits at full size, and its score."""
    logits, scores, _ = predictor.predict(
        point_coords=np.array(prompt.points) if prompt.points else None,
        point_labels=np.array(prompt.labels) if prompt.points else None,
        box=None if prompt.box is None else np.array(prompt.box),
        multimask_output=multimask,
        return_logits=True,
    )
    return logits[scores.argmax()], float(scores.max())


def one_click(prompt: SpatialPrompt) -> bool:
    return prompt.box is None and len(prompt.points) == 1


def always(prompt: SpatialPrompt) -> bool:
    return True


def never(prompt: SpatialPrompt) -> bool:
    return False


def assert_equal(segmenter, predictor, image, multimask) -> None:
    predictor.set_image(image)
    for prompt, (logits, score) in zip(prompts(image), segmenter.logits(image, prompts(image)), strict=True):
        expected, best = ask(predictor, prompt, multimask(prompt))
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * min(1.0, np.abs(expected).max()))
        assert score == pytest.approx(best, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_sam2_equals_its_predictor_on_odd_images(backend, official, faint, images):
    segmenter = Sam2(checkpoint=str(faint), backend=backend, image_size=256)
    predictor = official.with_weights(256, faint)
    for image in images.values():
        assert_equal(segmenter, predictor, image, one_click)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stable_single_mask_is_kept_and_an_unstable_one_replaced(backend, official, faint, bold, images):
    image = images["840x840 colour"]
    box = prompts(image)[0]
    for checkpoint, replaced in ((faint, True), (bold, False)):
        predictor = official.with_weights(256, checkpoint)
        predictor.set_image(image)
        segmenter = Sam2(checkpoint=str(checkpoint), backend=backend, image_size=256)
        result, best = segmenter.logits(image, [box])[0][0], ask(predictor, box, multimask=True)[0]
        assert np.allclose(result, best, rtol=1e-4, atol=1e-5) is replaced
        assert_equal(segmenter, predictor, image, one_click)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_medsam2_runs_at_512_with_one_mask(backend, official, bold, images):
    segmenter = MedSam2(checkpoint=str(bold), backend=backend)
    predictor = official.with_weights(512, bold)
    for name in ("37x512 colour", "840x840 grey"):
        assert_equal(segmenter, predictor, images[name], never)


@pytest.mark.slow
def test_the_medreasoner_protocol_is_1024_and_best_of_three(official, bold, images):
    segmenter = MedSam2(checkpoint=str(bold), protocol="medreasoner")
    assert segmenter.image_size == 1024
    assert_equal(segmenter, official.with_weights(1024, bold), images["37x512 colour"], always)


def test_sam2_runs_at_1024():
    assert (Sam2.native_size, MedSam2.native_size) == (1024, 512)


@pytest.mark.slow
def test_preparation_equals_the_authors_to_the_bit(images):
    from sam2.utils.transforms import SAM2Transforms

    for size in (512, 1024):
        transform = SAM2Transforms(resolution=size, mask_threshold=0.0)
        for image in images.values():
            ours = to_square(image, size, mean=MEAN, std=STD, device="cpu")
            assert torch.equal(ours, transform(image))


@pytest.mark.slow
def test_the_full_size_tiny_model_has_471_tensors_and_every_one_is_accounted_for():
    from sam2.build_sam import build_sam2
    from transformers import Sam2Model

    state = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu").state_dict()
    assert len(state) == 471
    shapes = {name: tuple(state[name].shape) for name in without_video(state)}
    assert len(shapes) == 311
    sizes = architecture(shapes, Unseen(), "tiny")
    with torch.device("meta"):
        model = Sam2Model(sam2_config(sizes, 512))
    renamed = {name: tuple(tensor.shape) for name, tensor in to_original(model.state_dict()).items()}
    assert renamed == shapes


PUBLISHED = {
    "t": ((96, 192, 384, 768), (1, 2, 4, 8), (8, 4, 14, 7), (5, 7, 9)),
    "s": ((96, 192, 384, 768), (1, 2, 4, 8), (8, 4, 14, 7), (7, 10, 13)),
    "b+": ((112, 224, 448, 896), (2, 4, 8, 16), (8, 4, 14, 7), (12, 16, 20)),
    "l": ((144, 288, 576, 1152), (2, 4, 8, 16), (8, 4, 16, 8), (23, 33, 43)),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", PUBLISHED)
def test_every_published_size_is_recognised_by_its_tensors(size):
    from sam2.build_sam import build_sam2

    model = build_sam2(f"configs/sam2.1/sam2.1_hiera_{size}.yaml", device="cpu")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: shapes[name] for name in without_video(shapes)}
    sizes = architecture(shapes, Unseen(), size)
    assert (sizes.widths, sizes.heads, sizes.windows, sizes.global_blocks) == PUBLISHED[size]
    ours = official_model(sizes, 1024)
    assert {n: tuple(t.shape) for n, t in ours.state_dict().items() if n in shapes} == shapes
    for mine, theirs in zip(ours.image_encoder.trunk.blocks, model.image_encoder.trunk.blocks, strict=True):
        assert (mine.window_size, mine.q_stride, mine.attn.num_heads) == (
            theirs.window_size,
            theirs.q_stride,
            theirs.attn.num_heads,
        )


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("component", "size"), [(MedSam2, 512), (Sam2, 1024)])
def test_the_full_size_tiny_model_equals_its_predictor(component, size, backend, official, images, tmp_path):
    model = official.build(size, overrides=[])
    torch.save({"model": model.state_dict()}, tmp_path / "tiny.pt")
    segmenter = component(checkpoint=str(tmp_path / "tiny.pt"), backend=backend)
    multimask = one_click if component is Sam2 else never
    assert_equal(segmenter, official.predictor(model), images["840x840 colour"], multimask)


def test_no_two_tensors_are_renamed_to_one_but_the_table_of_positions():
    from transformers import Sam2Config, Sam2Model

    with torch.device("meta"):
        names = list(Sam2Model(Sam2Config()).state_dict())
    renamed = [original_name(name) for name in names]
    assert len(set(renamed)) == len(names) - 1
