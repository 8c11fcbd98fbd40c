"""What a question about a volume leaves on disk: masks in its geometry, a page, and JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medground.images.label_maps import label_map
from medground.images.overlay import draw_grounding
from medground.images.writing.labelled import LabelledMask
from medground.images.writing.write import SUFFIXES, encode_masks
from medground.measures import RULE
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.volumes import VolumeResult
from medground.recipe.schema import SliceRule
from medground.report import render
from medground.report.stated import with_statement
from medground.report.viewer import viewer
from medground.runs.files import replacing


def write_volume_result(
    result: VolumeResult, folder: Path, *, pipeline: Pipeline, window: str | None, formats: Sequence[str]
) -> dict[str, Any]:
    """Write ``<id>.mask.*``, ``<id>.html`` and ``<id>.json``; return what the JSON holds.

    Where there is a fault no mask is written; the page and the JSON say why. Formats of DICOM hold no empty mask.

    Args:
        result: what is written.
        folder: where to.
        pipeline: what answered.
        window: as it was asked for.
        formats: of the masks, as of `medground.images.writing.write.SUFFIXES`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = result.volume.id
    files: dict[str, str] = {}
    notes: list[str] = []
    masks = [LabelledMask(data=mask, label=name) for mask, name in zip(result.masks, result.names, strict=False)]
    if result.fault is None:
        nothing = [LabelledMask(data=np.zeros(result.volume.shape, bool))]
        for form in formats:
            name = f"{stem}.mask{SUFFIXES[form]}"
            encoded = encode_masks(name, masks or nothing, result.volume)
            notes += encoded.notes
            if encoded.data is not None:
                files[form] = name
                with replacing(folder / name) as path:
                    path.write_bytes(encoded.data)
    files["page"] = f"{stem}.html"
    stated = with_statement(result.to_dict(), pipeline.untrained, files, notes)
    with replacing(folder / files["page"]) as path:
        path.write_text(_page(result, pipeline, window, stated), encoding="utf-8")
    with replacing(folder / f"{stem}.json") as path:
        path.write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")
    return stated


def summary(result: VolumeResult, out: Path, stated: dict[str, Any]) -> str:
    """Return a result for people."""
    lines = [f"question  {result.question}", f"volume    {result.volume!r}", f"slice     {_slice_words(result)}"]
    if result.answer is not None and result.answer.reasoning:
        lines.append(f"think     {result.answer.reasoning.strip()}")
    if result.fault is not None:
        lines.append(f"fault     {result.fault}{f': {result.cause}' if result.cause else ''}")
    elif not result.masks:
        lines.append("answer    nothing in the volume fits the question")
    for name, mask, measures in zip(result.names, result.masks, result.measures(), strict=False):
        lines.append(f"region    {name}: {int(mask.sum())} voxels, followed by {result.propagation}")
        if measures is not None:
            centroid = ", ".join(f"{value:.1f}" for value in measures.centroid)
            lines.append(f"measures  {measures.volume_ml:.2f} ml, slice {measures.slice}: {measures.largest}")
            lines.append(f"centroid  {centroid} mm (LPS)")
    lines += [f"note      {note}" for note in [*result.volume.notes, *stated["notes"]]]
    lines += [f"{kind:<9} {out / name}" for kind, name in stated["files"].items()]
    return "\n".join(lines)


def _slice_words(result: VolumeResult) -> str:
    choice = result.choice
    how = "the reasoner was asked" if choice.rule == SliceRule.ask else choice.rule
    which = "none" if choice.index is None else str(choice.index)
    return f"{choice.plane} {which} of 0 to {result.volume.count(choice.plane) - 1} ({how})"


def _page(result: VolumeResult, pipeline: Pipeline, window: str | None, stated: dict[str, Any]) -> str:
    masks, volume = result.masks, result.volume
    labels = label_map(masks).astype(np.uint8) if masks else np.zeros(volume.shape, np.uint8)
    causes = [f"There is no mask: {result.fault}. {result.cause}".strip()] if result.fault is not None else []
    if result.fault is None and not masks:
        causes = ["The answer: nothing in the volume fits the question."]
    return render(
        "volume.html", title=result.question, causes=causes, note=repr(volume),
        viewer=viewer(volume, labels, result.names if masks else (), start=_start(result, labels), window=window),
        measures=_measures(result), rule=RULE, exchanges=_exchanges(result), card=_card(result, pipeline, stated),
    )  # fmt: skip


def _start(result: VolumeResult, labels: np.ndarray) -> tuple[int, int, int] | None:
    """The voxel that the page shows first: on the slice that was asked about, in the middle of the first mask there."""
    choice = result.choice
    if choice.index is None:
        return None
    axis = result.volume.placement(choice.plane, choice.index).axis
    spots = np.argwhere(np.take(labels, choice.index, axis) > 0)
    sides = [side for other, side in enumerate(result.volume.shape) if other != axis]
    middle = np.round(spots.mean(axis=0)).astype(int).tolist() if len(spots) else [side // 2 for side in sides]
    middle.insert(axis, choice.index)
    i, j, k = middle
    return i, j, k


def _measures(result: VolumeResult) -> list[list[str | float | int | None]]:
    rows: list[list[str | float | int | None]] = []
    for name, measures in zip(result.names, result.measures(), strict=False):
        if measures is None:
            rows.append([name, 0.0, None, None, None, None, None, 0])
            continue
        largest = measures.largest
        centroid = ", ".join(f"{value:.1f}" for value in measures.centroid)
        axes = [round(value, 2) for value in (largest.long_axis, largest.short_axis)]
        rows.append(
            [
                name,
                round(measures.volume_ml, 3),
                *axes,
                measures.slice,
                round(largest.area, 1),
                centroid,
                measures.slices,
            ]
        )
    return rows


def _exchanges(result: VolumeResult) -> list[tuple[Any, str, str, str]]:
    """(picture, what it shows, caption, text) of each exchange with the reasoner."""
    choice, shown = result.choice, []
    if choice.query is not None and choice.grounding is not None and choice.completion is not None:
        chosen = "chose no slice" if choice.index is None else f"chose slice {choice.index}"
        picture = draw_grounding(choice.query.image, choice.grounding, legend=False)
        caption = f"First the reasoner was shown slices of the volume and {chosen}."
        shown.append(
            (picture, "slices of the volume; the tile of the chosen one is framed", caption, choice.completion.text)
        )
    if result.answer is not None:
        caption = f"{choice.plane} slice {choice.index} with the answer about it."
        shown.append((result.answer.overlay(), "the slice with the answer", caption, result.answer.text))
    return shown


def _card(result: VolumeResult, pipeline: Pipeline, stated: dict[str, Any]) -> list[list[str]]:
    components = ", ".join(f"{kind} {pipeline.name(kind)}" for kind in pipeline.components)
    rows = [
        ["slice", _slice_words(result)],
        ["followed by", result.propagation],
        ["made by", components],
        ["recipe", pipeline.as_recipe.name],
    ]
    rows += [[kind, name] for kind, name in stated["files"].items()]
    rows += [["note", note] for note in [*result.volume.notes, *stated["notes"]]]
    if stated["untrained_prompts"]:
        rows.append(["untrained", f"the segmenter was not trained for {' and '.join(stated['untrained_prompts'])}"])
    return rows
