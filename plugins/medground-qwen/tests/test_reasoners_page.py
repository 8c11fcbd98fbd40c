"""docs/reasoners.md lists the families that are tested."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

import other_families

PAGE = Path(__file__).parents[3] / "docs" / "reasoners.md"


def table():
    """Return a row per family; the tests of prompts, samples and rows take the same list."""
    from medground_qwen.families import QWEN2_5_VL, QWEN3_VL

    named = {kind: family for family in (QWEN2_5_VL, QWEN3_VL) for kind in family.model_types}
    lines = [
        "| `model_type` | reasoner | numbers count | prompt once per group | packing |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in sorted(other_families.BUILDERS):
        family = named.get(name)
        reasoner, frame = (f"`{name}`", family.kind) if family else ("`hf_vlm`", "what `frame` says")
        lines.append(f"| `{name}` | {reasoner} | {frame} | yes | {'yes' if family and family.packs else 'no'} |")
    return "\n".join(lines)


def test_the_page_lists_the_families_that_are_tested():
    assert table() in PAGE.read_text(encoding="utf-8"), f"put this table in {PAGE.name}:\n{table()}"
