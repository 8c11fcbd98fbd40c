"""Write the table of docs/reasoners.md: `python plugins/medground-qwen/tests/family_table.py`.

A row for every family that the tests build, and a column for every test that is run for all of them.
"""

import re
from pathlib import Path

import other_families
import test_families_open
import test_families_text
import test_families_train
import test_image_tree
import test_prompt_states
from medground_qwen.families import QWEN2_5_VL, QWEN3_VL

PAGE = Path(__file__).parents[3] / "docs" / "reasoners.md"
COLUMNS = {
    "answers": test_families_open.test_it_answers_a_question_on_the_command_line,
    "tensors": test_families_open.test_every_tensor_is_used_and_none_is_made_up,
    "text": test_families_text.test_the_names_of_special_tokens_in_a_question_are_text,
    "tokens": test_families_text.test_no_token_is_sampled_that_has_no_text,
    "begins once": test_families_text.test_a_prompt_begins_once,
    "sample = update": test_prompt_states.test_sampled_log_probabilities_equal_those_of_the_update,
    "prompt once": test_prompt_states.test_a_prompt_computed_once_equals_repeated_rows,
    "image once": test_image_tree.test_an_image_computed_once_for_its_questions_equals_repeated_rows,
    "trains, exports": test_families_train.test_a_step_moves_the_language_model_alone_and_its_export_loads,
}
"""What a column says, and the test that says it of every family."""
NOTES = {("paligemma", "begins once"): "or refused", ("paligemma", "image once"): "per question"}
"""Cells of what a test expects other than yes."""


def tested(test):
    """Return the families that a test is run for."""
    names = set()
    for mark in test.pytestmark:
        if mark.name == "parametrize" and mark.args[0] == "name":
            names |= {name if isinstance(name, str) else name.values[0] for name in mark.args[1]}
    return names


def table():
    """Return the table as Markdown."""
    named = {kind: family for family in (QWEN2_5_VL, QWEN3_VL) for kind in family.model_types}
    head = ["`model_type`", "reasoner", "numbers count", *COLUMNS, "packing"]
    lines = [head, ["---"] * len(head)]
    for name in sorted(other_families.BUILDERS):
        family = named.get(name)
        cells = [f"`{name}`", f"`{name}`" if family else "`hf_vlm`", family.kind if family else "what `frame` says"]
        for column, test in COLUMNS.items():
            cells.append(NOTES.get((name, column), "yes") if name in tested(test) else "no")
        lines.append([*cells, "yes" if family and family.packs else "no"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_table(page):
    """Return a page with its table of families replaced."""
    written, count = re.subn(r"(?m)^\| `model_type` \|.*(?:\n\|.*)*", lambda _: table(), page)
    assert count == 1, f"the page has {count} tables of families"
    return written


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
