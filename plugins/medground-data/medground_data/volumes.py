"""The volumes of a dataset that is being built: each written once, without the words of its header, and a sample per target."""

import gzip
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medground.data.volume_samples import VOLUMES
from medground.errors import InputError, PluginError
from medground.runs.files import sha256_file

if TYPE_CHECKING:
    from medground_data.drafts import Draft

_NO_EXTENSION = bytes(4)
_KEPT = ("question", "category", "modality", "split", "group", "source_volume")
"""Words of a slice's line that hold of its volume, too."""


def write_volumes(drafts: "Iterable[Draft]", work: Path) -> int:
    """Write ``volumes/`` and ``volumes.jsonl``: a line per volume and category; return how many lines there are.

    The question of a volume is that of its slice with the largest target; group and split are those of the slices.

    Raises:
        InputError: if no sample is of a volume.
        PluginError: without nibabel.
    """
    largest: dict[tuple[str, str], Draft] = {}
    for draft in drafts:
        if draft.volume is not None and not draft.apart:
            key = str(draft.line["source_volume"]), draft.category
            if key not in largest or draft.props.area > largest[key].props.area:
                largest[key] = draft
    if not largest:
        raise InputError("no sample is a slice of a volume that could be written", hint="leave out --volumes")
    names: dict[tuple[Path, int | None], str] = {}
    lines: list[dict[str, Any]] = []
    for (volume, category), draft in sorted(largest.items()):
        assert draft.volume is not None
        image, mask = (draft.volume.image, draft.volume.stack), (draft.volume.mask, None)
        for path, stack in (image, mask):
            if (path, stack) not in names:
                names[path, stack] = _write(path, stack, work)
        lines.append(
            {
                "id": f"{volume}__{category.replace(' ', '_')}", "volume": names[image],
                "mask": names[mask], "mask_value": list(draft.volume.values),
                **({"window": draft.volume.window} if draft.volume.window else {}),
                **{word: draft.line[word] for word in _KEPT if word in draft.line},
            }
        )  # fmt: skip
    (work / VOLUMES).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return len(lines)


def _write(path: Path, stack: int | None, work: Path) -> str:
    """Copy a NIfTI file, its voxels byte for byte, without the texts and the extensions of its header; return its new name.

    Of a file of several volumes, `stack` is the one that is copied.
    """
    try:
        import nibabel
    except ImportError as error:
        raise PluginError("writing volumes needs nibabel", hint="pip install 'medground[nifti]'") from error
    name = f"volumes/{sha256_file(path)[:16]}{'' if stack is None else f'_{stack}'}.nii.gz"
    data = path.read_bytes()
    raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    header: Any = type(nibabel.load(path).header).from_fileobj(io.BytesIO(raw))
    voxels = raw[int(header["vox_offset"]) :]
    if stack is not None:
        sides = header.get_data_shape()[:3]
        size = math.prod(sides) * header.get_data_dtype().itemsize
        voxels = voxels[stack * size : (stack + 1) * size]
        header.set_data_shape(sides)
    header.extensions.clear()
    for word in ("descrip", "aux_file", "intent_name", *(["db_name"] if "db_name" in header else [])):
        header[word] = b""
    start = header.binaryblock
    header["vox_offset"] = len(start) + len(_NO_EXTENSION)
    (work / name).parent.mkdir(exist_ok=True)
    (work / name).write_bytes(gzip.compress(header.binaryblock + _NO_EXTENSION + voxels, mtime=0))
    return name
