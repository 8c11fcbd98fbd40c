"""sam3_tracker and edgetam follow targets through a volume as the video models of transformers do, called directly."""

from importlib import import_module

import pytest
import sam2_volumes
import tiny_sam3
import torch
from medground_sam2 import EdgeTam, Sam3Tracker
from medground_sam2.following import FollowingSegmenter
from tiny_folders import digest, reweighted
from tiny_followers import always_there, save_edgetam, save_tracker

from medground.errors import InputError
from medground.segmenters.pixels import to_size
from medground.segmenters.slices import Slices
from medground.testing import check_volume_segmenter

pytest.importorskip("timm")
pytest.importorskip("torchvision")

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
COMPONENTS = {"sam3_tracker": Sam3Tracker, "edgetam": EdgeTam}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("folders")
    return {"sam3_tracker": save_tracker(base / "tracker"), "edgetam": save_edgetam(base / "edgetam")}


@pytest.fixture(params=list(COMPONENTS))
def name(request):
    return request.param


def load(name, folder):
    segmenter = COMPONENTS[name](checkpoint=str(folder), device="cpu")
    always_there(segmenter.video.model)
    return segmenter


@torch.inference_mode()
def direct(model, frames, box, index, down):
    """Return transformers' own logits per slice, low resolution."""
    module = import_module(type(model).__module__)
    session = getattr(module, type(model).__name__.removesuffix("Model") + "InferenceSession")(
        video=frames, video_height=26, video_width=20, dtype=torch.float32
    )
    points = {"point_coords": box, "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32)}
    session.add_point_inputs(session.obj_id_to_idx(1), index, points)
    session.obj_with_new_inputs = [1]
    model(session, frame_idx=index)
    outputs = model.propagate_in_video_iterator(session, start_frame_idx=index, reverse=down)
    return {output.frame_idx: output.pred_masks[0, 0] for output in outputs}


@pytest.mark.slow
def test_logits_equal_transformers_called_directly(name, folders, monkeypatch):
    import transformers

    segmenter, volume = load(name, folders[name]), sam2_volumes.volume()
    low, (index,) = {}, sam2_volumes.cases()["box"]
    cut = FollowingSegmenter._cut
    order = iter([index, *range(index - 1, -1, -1), *range(index + 1, 8)])

    def noted(self, values, size):
        low[next(order)] = values
        return cut(self, values, size)

    monkeypatch.setattr(FollowingSegmenter, "_cut", noted)
    prompt = sam2_volumes.cases()["box"][index]
    segmenter.propagate(volume, [{index: prompt}], plane="axial", patience=None)
    slices = Slices(volume, "axial")
    frames = torch.stack([segmenter.prepare_slice(slices.image(number)) for number in range(8)])
    side, (height, width) = segmenter.image_size, slices.size
    x1, y1, x2, y2 = prompt.box
    box = torch.tensor([[[[x1 / width, y1 / height], [x2 / width, y2 / height]]]]) * side
    model = always_there(
        getattr(transformers, COMPONENTS[name].video_layout.model).from_pretrained(folders[name])
    ).eval()
    expected = direct(model, frames, box, index, True) | direct(model, frames, box, index, False)
    scale = max(float(values.abs().max()) for values in expected.values())
    largest = max(float((low[number] - expected[number]).abs().max()) for number in range(8)) / scale
    print(f"{name}: largest difference {largest:.1e} of {scale:.2f}")
    assert scale > 0.05 and largest <= 1e-6
    assert float(to_size(expected[0] - expected[index], (26, 20)).abs().max()) > 1e-3 * scale, "slices differ"


@pytest.mark.slow
def test_it_passes_the_conformance_kit(name, folders):
    check_volume_segmenter(COMPONENTS[name], quick=True, checkpoint=str(folders[name]), device="cpu")


@pytest.mark.slow
def test_every_tensor_for_video_is_accounted_for(name, folders, tmp_path):
    less = reweighted(folders[name], tmp_path / "less", lambda w: {k: t for k, t in w.items() if "no_object" not in k})
    more = reweighted(folders[name], tmp_path / "more", lambda w: w | {"memory_encoder.adapter": torch.ones(2)})
    for folder, words in ((less, "1 missing: no_object_pointer"), (more, "1 unexpected: memory_encoder.adapter")):
        with pytest.raises(InputError, match=words):
            _ = COMPONENTS[name](checkpoint=str(folder), device="cpu").video


@pytest.mark.slow
def test_the_encoder_is_shared_with_the_model_for_single_images(name, folders):
    segmenter = COMPONENTS[name](checkpoint=str(folders[name]), device="cpu")
    assert segmenter.video.model.vision_encoder is segmenter.network.model.vision_encoder
    assert not any(parameter.requires_grad for parameter in segmenter.video.model.parameters())


@pytest.mark.slow
def test_the_tracker_comes_out_of_the_whole_of_sam_3(tmp_path):
    whole = tiny_sam3.save_whole(tmp_path / "whole", **tiny_sam3.clip_text(300, 0, 1))
    segmenter = Sam3Tracker(checkpoint=str(whole), device="cpu")
    assert type(segmenter.video.model).__name__ == "Sam3TrackerVideoModel"
    assert digest(segmenter.video.model.mask_decoder) == digest(segmenter.network.model.mask_decoder)


@pytest.mark.slow
def test_a_folder_of_the_model_for_single_images_alone_does_not_follow(tmp_path):
    folder = tiny_sam3.save_tracker(tmp_path / "tracker")
    with pytest.raises(InputError, match="missing: "):
        _ = Sam3Tracker(checkpoint=str(folder), device="cpu").video
