"""docs/reasoners.md lists the families that are tested, and what holds for each."""

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("peft", reason="needs peft")

import family_table


def test_the_page_has_the_table_of_the_tested_families():
    page = family_table.PAGE.read_text(encoding="utf-8")
    assert family_table.with_table(page) == page, "write it with: python plugins/medground-qwen/tests/family_table.py"
