"""Write a dataset in the formats of others: the published table, COCO."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medground.data.coco_words import coco_info, coco_words
from medground.data.dataset import Dataset
from medground.data.open_dataset import open_dataset
from medground.data.splits import without_names
from medground.data.umrg import write_umrg
from medground.errors import InputError, UsageError, did_you_mean
from medground.images.pictures import png_bytes
from medground.images.rle import encode_rle
from medground.segmenters.batching import image_key
from medground.types import Region, Sample

FORMATS = ("umrg", "coco")


def export(source: str | Path, to: Path, format: str = "umrg", *, split: str | None = None) -> dict[str, int]:
    """Write the samples of a dataset in another format.

    ``umrg`` is the published parquet table: one file where `to` ends in ``.parquet``, else a folder with a file per
    split. Boxes and points become inclusive pixel indices, as that schema has them. ``coco`` is a folder with
    ``images/`` and ``instances_SPLIT.json`` per split, an annotation per region, masks as compressed run lengths. An absent
    target is one of its image's ``neg_category_ids``, as LVIS has them, and of its ``absent``. Both have further words, with
    the meaning they have in a manifest; `medground.data.coco_words` names them.

    Returns:
        how many samples each file holds.

    Raises:
        UsageError: for a format that is not known, or a single file for COCO.
        InputError: if `to` exists, or a sample cannot be read.
        PluginError: without pyarrow, for ``umrg``.
    """
    if format not in FORMATS:
        raise UsageError(f"there is no format {format!r}", hint=did_you_mean(format, FORMATS))
    if to.exists() and (to.is_file() or any(to.iterdir())):
        raise InputError(f"{to} already holds something", hint="give another --to, or remove it first")
    dataset = open_dataset(source, split=split)
    if to.suffix == ".parquet":
        if format != "umrg":
            raise UsageError("COCO is a folder, not a .parquet file", hint="give --to DIR")
        return {to.name: write_umrg(to, dataset)}
    work = to.with_name(f"{to.name}.building")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    counts = {}
    for name in dict.fromkeys(dataset.splits):
        samples = _of_split(dataset, name)
        if format == "umrg":
            counts[f"{name}.parquet"] = write_umrg(work / f"{name}.parquet", samples)
        else:
            counts[f"instances_{name}.json"] = _write_coco(work, name, samples)
    if to.is_dir():
        to.rmdir()
    work.replace(to)
    return counts


def _of_split(dataset: Dataset[Any], name: str) -> Iterator[Sample]:
    """The samples of one split, read one by one."""
    return (dataset[index] for index, split in enumerate(dataset.splits) if split == name)


def _write_coco(folder: Path, split: str, samples: Iterable[Sample]) -> int:
    (folder / "images").mkdir(exist_ok=True)
    categories: dict[str, dict[str, Any]] = {}
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    count = 0
    for sample in samples:
        count += 1
        name = sample.labels.get("category", "target")
        category = categories.setdefault(
            name, {"id": len(categories) + 1, "name": name, "supercategory": sample.labels.get("supercategory", "")}
        )
        image = _image(folder, images, sample)
        for region in sample.target.regions:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category["id"],
                 **_annotation(sample, region), **coco_words(sample, region)}
            )  # fmt: skip
        if not sample.target.regions:
            negative: list[int] = image.setdefault("neg_category_ids", [])
            if category["id"] not in negative:
                negative.append(category["id"])
            image.setdefault("absent", []).append({"category_id": category["id"], **coco_words(sample)})
    whole = {
        "info": coco_info(split), "images": list(images.values()), "annotations": annotations,
        "categories": list(categories.values()),
    }  # fmt: skip
    (folder / f"instances_{split}.json").write_text(json.dumps(whole), encoding="utf-8")
    return count


def _image(folder: Path, images: dict[str, dict[str, Any]], sample: Sample) -> dict[str, Any]:
    """The entry of a sample's image, which is written the first time it is met."""
    pixels = sample.query.image
    key = image_key(pixels)[:16]
    if key not in images:
        height, width = sample.query.size
        group = {word: name for word, name in without_names(sample.labels).items() if word == "group"}
        images[key] = {"id": len(images) + 1, "file_name": f"{key}.png", "height": height, "width": width, **group}
        path = folder / "images" / f"{key}.png"
        if not path.exists():
            path.write_bytes(png_bytes(pixels))
    return images[key]


def _annotation(sample: Sample, region: Region) -> dict[str, Any]:
    box, mask = region.box, region.mask
    if box is None or mask is None:
        raise InputError(
            f"{sample.query.id} has no {'box' if box is None else 'mask'}, which COCO needs",
            hint="export as umrg, or leave it out",
        )
    return {
        "bbox": [box.x1, box.y1, box.width, box.height],
        "segmentation": encode_rle(mask.data),
        "area": int(mask.data.sum()),
        "iscrowd": 0,
    }
