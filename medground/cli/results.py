"""What a grounded query leaves on disk: overlay, mask and JSON, the same for `ground` and `run`."""

import json
from pathlib import Path
from typing import Any

from medground.data.images import write_mask
from medground.graph import Found
from medground.overlay import draw
from medground.report import STATEMENT


def write_result(
    found: Found, folder: Path, stem: str, *, untrained: list[str], overlay: bool = True
) -> dict[str, Any]:
    """Write ``<stem>.mask.png``, ``<stem>.overlay.png`` and ``<stem>.json``; return what the JSON holds.

    `untrained` names the prompt kinds the segmenter was given without having been trained for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = found.to_dict()
    files: dict[str, str] = {}
    if found.mask is not None:
        files["mask"] = f"{stem}.mask.png"
        write_mask(folder / files["mask"], found.mask.data)
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
