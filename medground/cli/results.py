"""What a grounded query leaves on disk: overlay, mask and JSON, the same for `ground` and `run`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medground.images.label_maps import label_map, write_label_map
from medground.images.loaded import LoadedImage
from medground.images.pictures import write_mask
from medground.images.view import View
from medground.images.writing.labelled import LabelledMask
from medground.images.writing.write import SUFFIXES, encode_masks
from medground.pipeline.result import GroundingResult
from medground.report.stated import with_statement
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
    run_lengths: bool = False,
    formats: Sequence[str] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Write ``<stem>.mask.png``, ``<stem>.overlay.png`` and ``<stem>.json``; return what the JSON holds.

    The mask is the union of the regions. Of several regions ``<stem>.labels.png`` is a label map too: each pixel the number
    of its region, from 1. The masks are written in the geometry of the `source` in each of `formats` too, those of a NIfTI
    volume always as ``<stem>.mask.nii.gz``; ``notes`` of the JSON say what they lack.

    Args:
        answer: what is written.
        folder: where to.
        stem: of the files.
        untrained: the prompt kinds the segmenter was given without having been trained for them.
        image: as it was read.
        source: the image's file.
        view: what of it was asked for.
        overlay: whether to draw it.
        run_lengths: whether the JSON holds the mask itself.
        formats: as of `medground.images.writing.write.SUFFIXES`.
        force: as of `medground.write_masks`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = {**answer.to_dict(run_lengths=run_lengths), "view": dict(image.details) or None}
    files: dict[str, str] = {}
    notes: list[str] = []
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
        for form in SUFFIXES:
            if form in formats or (form == "nifti" and image.kind == "nifti"):
                name = f"{stem}.mask{SUFFIXES[form]}"
                encoded = encode_masks(name, _labelled(answer), source, view=view, force=force)
                notes += encoded.notes
                if encoded.data is not None:
                    files["volume" if form == "nifti" else form] = name
                    with replacing(folder / name) as path:
                        path.write_bytes(encoded.data)
    if overlay:
        files["overlay"] = f"{stem}.overlay.png"
        with replacing(folder / files["overlay"]) as path:
            answer.overlay().save(path)
    result = with_statement(result, untrained, files, notes)
    with replacing(folder / f"{stem}.json") as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _labelled(answer: GroundingResult) -> list[LabelledMask]:
    """The masks of an answer with what they are in words, where it says so."""
    return [
        LabelledMask(data=region.mask.data, label=region.label) for region in answer.regions if region.mask is not None
    ]
