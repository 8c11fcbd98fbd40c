"""What a grounded query leaves on disk: overlay, mask and JSON, the same for `ground` and `run`."""

import json
from pathlib import Path
from typing import Any

from medground.images import nifti
from medground.images.label_maps import label_map, write_label_map
from medground.images.loaded import LoadedImage
from medground.images.pictures import write_mask
from medground.images.view import View
from medground.pipeline.result import GroundingResult
from medground.report import STATEMENT
from medground.runs.files import replacing


def write_result(
    answer: GroundingResult,
    folder: Path,
    stem: str,
    *,
    untrained: list[str],
    image: LoadedImage,
    source: Path,
    view: View,
    overlay: bool = True,
) -> dict[str, Any]:
    """Write ``<stem>.mask.png``, ``<stem>.overlay.png`` and ``<stem>.json``; return what the JSON holds.

    The mask is the union of the regions. Of several regions ``<stem>.labels.png`` is a label map too: each pixel the number
    of its region, from 1. A mask of a NIfTI volume is written as ``<stem>.mask.nii.gz`` too, in the voxels of its `source`,
    of several regions as a label map.

    Args:
        answer: what is written.
        folder: where to.
        stem: of the files.
        untrained: the prompt kinds the segmenter was given without having been trained for them.
        image: as it was read.
        source: the image's file.
        view: what of it was asked for.
        overlay: whether to draw it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = {**answer.to_dict(), "view": dict(image.details) or None}
    files: dict[str, str] = {}
    if answer.mask is not None:
        files["mask"] = f"{stem}.mask.png"
        with replacing(folder / files["mask"]) as path:
            write_mask(path, answer.mask.data)
        several = [region.mask.data for region in answer.regions if region.mask is not None]
        labels = label_map(several) if len(several) > 1 else None
        if labels is not None:
            files["labels"] = f"{stem}.labels.png"
            with replacing(folder / files["labels"]) as path:
                write_label_map(path, labels)
        if image.kind == "nifti":
            files["volume"] = f"{stem}.mask.nii.gz"
            with replacing(folder / files["volume"]) as path:
                nifti.write_mask(path, source, view, answer.mask.data if labels is None else labels)
    if overlay:
        files["overlay"] = f"{stem}.overlay.png"
        with replacing(folder / files["overlay"]) as path:
            answer.overlay().save(path)
    result = {**result, "untrained_prompts": untrained, "files": files, "statement": STATEMENT}
    with replacing(folder / f"{stem}.json") as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
