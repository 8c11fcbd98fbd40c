"""How each model takes its input and how its output becomes a mask: data, one row per model and protocol.

Images in are H x W x 3 uint8 RGB, arrays out 3 x S x S float32; coordinates are (x, y) pixels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image as PIL

from medground.errors import InputError, RecipeError, did_you_mean
from medground.geometry import Size
from medground.types import Image

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
"""ImageNet means on the 0-255 scale, RGB order."""
STD = np.array([58.395, 57.12, 57.375], np.float32)
"""ImageNet standard deviations on the 0-255 scale, RGB order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What one model expects and how its output is read."""

    resize: Literal["longest_side", "spline", "nearest"]
    """``longest_side``: bilinear, aspect kept, zeros to the right and below. ``spline``: cubic B-spline to a square
    after a Gaussian, cast to uint8. ``nearest``: to a square, sample floor(i * old / new), after normalising."""
    normalise: Literal["statistics", "min_max"]
    """``statistics``: (value - MEAN) / STD per channel. ``min_max``: the whole resized image to [0, 1]."""
    order: Literal["rgb", "bgr"] = "rgb"
    """Channels as the model saw them in training; the statistics stay in RGB order."""
    multimask: bool = True
    """Whether three masks are decoded and the one with the best predicted IoU taken, or the single one."""
    upsample: Literal["logits_through_input", "probabilities"] = "logits_through_input"
    """What is interpolated: logits to the input size, cropped, then to the original; or probabilities straight."""

    @property
    def threshold(self) -> float:
        """A pixel is foreground above this value of the upsampled map."""
        return 0.5 if self.upsample == "probabilities" else 0.0


_SAM = Contract(resize="longest_side", normalise="statistics")
_CONTRACTS = {
    ("sam", "native"): _SAM,
    ("medsam", "native"): Contract(resize="spline", normalise="min_max", multimask=False, upsample="probabilities"),
    ("sammed2d", "native"): Contract(resize="nearest", normalise="statistics", order="bgr"),
    ("sam_hq", "native"): Contract(resize="longest_side", normalise="statistics", multimask=False),
    # The released MedReasoner evaluation: MedSAM behind SAM's own predictor, SAM-Med2D on RGB arrays.
    ("sam", "medreasoner"): _SAM,
    ("medsam", "medreasoner"): _SAM,
    ("sammed2d", "medreasoner"): Contract(resize="nearest", normalise="statistics"),
}


def contract(model: str, protocol: str) -> Contract:
    """Return the row for a model under a protocol: ``native`` (its authors') or ``medreasoner`` (the released evaluation).

    Raises:
        RecipeError: if there is no such protocol.
    """
    if (model, protocol) not in _CONTRACTS:
        known = [name for owner, name in _CONTRACTS if owner == model]
        raise RecipeError(f"{model} has no protocol {protocol!r}", hint=did_you_mean(protocol, known))
    return _CONTRACTS[model, protocol]


def input_size(row: Contract, size: Size, side: int) -> Size:
    """Return the (H, W) that an image of `size` fills of the model's `side` x `side` input.

    >>> input_size(_SAM, (300, 200), 1024), input_size(_CONTRACTS["sammed2d", "native"], (300, 200), 256)
    ((1024, 683), (256, 256))
    """
    if row.resize != "longest_side":
        return side, side
    scale = side / max(size)
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def to_input(row: Contract, xy: ArrayLike, size: Size, side: int) -> NDArray[np.float32]:
    """Convert pixels ``[..., 2]`` of an image of `size` (H, W) to pixels of the model's input."""
    height, width = input_size(row, size, side)
    scale = np.array([width / size[1], height / size[0]])
    return (np.asarray(xy, np.float64) * scale).astype(np.float32)


def as_rgb(image: Image) -> Image:
    """Return the image as H x W x 3 uint8; one grey channel is repeated.

    Raises:
        InputError: if it is neither grey nor RGB, not uint8, or empty.
    """
    array = np.asarray(image)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise InputError(f"a segmenter takes H x W x 3 uint8 images, not {array.shape} {array.dtype}")
    return array


def prepare(row: Contract, image: Image, side: int) -> NDArray[np.float32]:
    """Return the model's input, 3 x side x side float32, for an H x W x 3 uint8 RGB image."""
    array = image[..., ::-1] if row.order == "bgr" else image
    if row.resize == "nearest":
        array = _normalise(row, array)[_nearest(array.shape[0], side)][:, _nearest(array.shape[1], side)]
    elif row.resize == "spline":
        array = _normalise(row, _spline(array, side))
    else:
        height, width = input_size(row, (array.shape[0], array.shape[1]), side)
        resized = PIL.fromarray(np.ascontiguousarray(array)).resize((width, height), PIL.Resampling.BILINEAR)
        array = np.zeros((side, side, 3), np.float32)
        array[:height, :width] = _normalise(row, np.asarray(resized))
    return np.ascontiguousarray(array.transpose(2, 0, 1), np.float32)


def _normalise(row: Contract, array: NDArray[np.uint8]) -> NDArray[np.float32]:
    if row.normalise == "statistics":
        return (array - MEAN) / STD
    low, high = int(array.min()), int(array.max())
    return ((array - low) / max(high - low, 1e-8)).astype(np.float32)


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    """Source index of each of `new` samples of an axis of length `old`, as OpenCV's nearest neighbour takes them."""
    step = 1.0 / (new / old)
    return np.minimum(np.floor(np.arange(new) * step).astype(np.intp), old - 1)


def _spline(array: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cubic B-spline resize after a Gaussian against aliasing: scikit-image's ``resize`` with order 3, to the bit."""
    from scipy import ndimage

    factors = (array.shape[0] / side, array.shape[1] / side)
    sigma = [max(0.0, (factor - 1) / 2) for factor in factors]

    def channel(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        smooth = values.astype(np.float64)
        if max(sigma) > 0:
            smooth = ndimage.gaussian_filter(smooth, sigma, mode="mirror")
        zoomed = ndimage.zoom(smooth, [1 / factor for factor in factors], order=3, mode="mirror", grid_mode=True)
        return np.clip(zoomed, array.min(), array.max()).astype(np.uint8)

    if (array[..., :1] == array).all():  # grey: one channel stands for all
        return np.repeat(channel(array[..., 0])[..., None], 3, axis=2)
    return np.stack([channel(array[..., index]) for index in range(3)], axis=2)
