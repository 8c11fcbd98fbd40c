"""The model sees the image at the size and with the pixels that are promised, and its samples depend on the image."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground_qwen.prompts import Encoder, resize  # noqa: E402
from medground_qwen.reasoner import seed_of  # noqa: E402


def test_images_are_resized_bicubically():
    """An edge of 0 and 255, twice as wide: the bicubic kernel (a = -0.5) at distances 0.75 and 1.75 gives 0.203 of it.

    f(0.75) + f(1.75) = 0.2265625 - 0.0234375; a bilinear one would give 0.25.
    """
    edge = np.zeros((4, 4, 3), np.uint8)
    edge[:, 2:] = 255
    wide = resize(edge, (4, 8))
    assert wide.shape == (4, 8, 3)
    assert wide[0, :, 0].tolist() == [0, 0, 0, 52, 203, 255, 255, 255]
    assert resize(edge, (4, 4)) is edge


class Processor:
    """An image processor that shrinks what it is given to a grid of its own."""

    def __init__(self, grid):
        self.image_processor, self.tokenizer = self, SimpleNamespace(added_tokens_decoder={})
        self.patch_size, self.grid = 8, grid

    def __call__(self, images, return_tensors):
        rows = self.grid[0] * self.grid[1]
        return {
            "image_grid_thw": torch.tensor([[1, *self.grid]] * len(images)),
            "pixel_values": torch.zeros(rows * len(images), 3),
        }


def test_a_processor_that_resizes_once_more_is_noticed():
    images = [SimpleNamespace()] * 2
    seen = Encoder(Processor((4, 6)), rope=None)._images(images, [(32, 48)] * 2)
    assert [tuple(each["pixel_values"].shape) for each in seen] == [(24, 3)] * 2
    for size in ((32, 40), (48, 32), (64, 96)):
        with pytest.raises(ValueError, match="read in the wrong frame"):
            Encoder(Processor((4, 6)), rope=None)._images(images, [size] * 2)


def messages(image, text="where?"):
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def test_a_sampling_seed_follows_from_run_question_and_image():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    other = image.copy()
    other[3, 3, 2] += 1
    seeds = [
        seed_of(0, messages(image)), seed_of(1, messages(image)), seed_of(0, messages(image, "what?")),
        seed_of(0, messages(other)), seed_of(0, messages(image[:, :3])),
    ]  # fmt: skip
    assert len(set(seeds)) == 5
    assert seed_of(0, messages(np.asfortranarray(image))) == seeds[0], "how it lies in memory does not matter"
