"""Samples into a parquet file of the published schema."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from medground.data.splits import without_names
from medground.data.umrg.schema import FEATURES, NAMED, arrow, published
from medground.images.pictures import png_bytes
from medground.types import Sample

GROUP = 50
"""Rows of a row group: what is held in memory at once."""


def write_umrg(path: str | Path, samples: Iterable[Sample]) -> int:
    """Write samples as one table that `datasets` opens with decoded images; return how many.

    The file appears when it is complete. Boxes and points become inclusive pixel indices again. Labels, a reasoning trace
    and the spacing are kept in ``extra_info``, and a pseudonym in place of patient, study, volume and group.

    Args:
        path: of the file, for example ``train.parquet``.
        samples: read one by one.

    Raises:
        PluginError: without pyarrow.
    """
    pyarrow, parquet = arrow()
    schema = _schema(pyarrow)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    count = 0
    with parquet.ParquetWriter(temporary, schema) as writer:
        numbered = enumerate(samples)
        while rows := [_row(sample, index) for index, sample in islice(numbered, GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    temporary.replace(path)
    return count


def _row(sample: Sample, index: int) -> dict[str, Any]:
    query, target, labels = sample.query, sample.target, without_names(sample.labels)
    masks = [region.mask.data for region in target.regions if region.mask is not None]
    rest = {key: value for key, value in labels.items() if key not in NAMED}
    if sample.spacing is not None:
        rest["spacing"] = list(sample.spacing)  # type: ignore[assignment]
    return {
        "prompt": [{"role": "user", "content": query.question}],
        "images": [{"bytes": png_bytes(query.image), "path": None}],
        "masks": [{"bytes": png_bytes(mask), "path": None} for mask in masks if target.mask is not None],
        "data_source": "umrg",
        "reward_model": {"ground_truth": json.dumps(published(target)), "style": "rule"},
        "extra_info": {
            "id": query.id,
            **{name: labels.get(name) for name in NAMED},
            "index": index,
            "labels": json.dumps(rest) if rest else None,
        },
    }


def _schema(pyarrow: Any) -> Any:
    text, number = pyarrow.string(), pyarrow.int64()
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)])
    about = [("id", text), *((name, text) for name in NAMED), ("index", number), ("labels", text)]
    columns = {
        "prompt": pyarrow.list_(pyarrow.struct([("role", text), ("content", text)])),
        "images": pyarrow.list_(image),
        "masks": pyarrow.list_(image),
        "data_source": text,
        "reward_model": pyarrow.struct([("ground_truth", text), ("style", text)]),
        "extra_info": pyarrow.struct(about),
    }
    features = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    return pyarrow.schema(list(columns.items()), metadata=features)
