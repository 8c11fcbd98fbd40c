"""What a grounded query leaves on disk: overlay, mask and JSON, the same for `ground` and `run`."""

import json
from pathlib import Path
from typing import Any

from medground.images import nifti
from medground.images.overlay import draw
from medground.images.pictures import write_mask
from medground.images.read import kind
from medground.images.view import Shown, View
from medground.pipeline.pipeline import GroundingResult
from medground.report import STATEMENT


def write_result(
    found: GroundingResult,
    folder: Path,
    stem: str,
    *,
    untrained: list[str],
    shown: Shown,
    source: Path,
    view: View,
    overlay: bool = True,
) -> dict[str, Any]:
    """Write ``<stem>.mask.png``, ``<stem>.overlay.png`` and ``<stem>.json``; return what the JSON holds.

    A mask of a NIfTI volume is written as ``<stem>.mask.nii.gz`` too, in the voxels of its `source`.

    Args:
        found: what is written.
        folder: where to.
        stem: of the files.
        untrained: the prompt kinds the segmenter was given without having been trained for them.
        shown: the image as it was read.
        source: the image's file.
        view: what of it was asked for.
        overlay: whether to draw it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = {**found.to_dict(), "view": dict(shown.about) or None}
    files: dict[str, str] = {}
    if found.mask is not None:
        files["mask"] = f"{stem}.mask.png"
        write_mask(folder / files["mask"], found.mask.data)
        if kind(source) == "nifti":
            files["volume"] = f"{stem}.mask.nii.gz"
            nifti.write_mask(folder / files["volume"], source, view, found.mask.data)
    if overlay:
        files["overlay"] = f"{stem}.overlay.png"
        prompt = found.grounding.prompt
        draw(
            found.query.image,
            box=prompt.box if prompt else None,
            points=prompt.points if prompt else (),
            mask=found.mask.data if found.mask else None,
        ).save(folder / files["overlay"])
    result = {**result, "untrained_prompts": untrained, "files": files, "statement": STATEMENT}
    (folder / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
