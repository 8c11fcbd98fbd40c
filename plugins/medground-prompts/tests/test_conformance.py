"""Every prompt interface passes the conformance kit in every mode."""

import pickle
from pathlib import Path

import pytest
from medground_prompts import Bbox, BboxPoints, Points
from medground_prompts.parsers import PARSERS

from medground.testing import check_prompt_interface


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("factory", [BboxPoints, Bbox, Points])
@pytest.mark.parametrize("style", ["json", "single_quoted"])
@pytest.mark.parametrize("parser", ["lenient", "strict"])
def test_our_parsers_pass_the_conformance_kit(factory, think, style, parser):
    check_prompt_interface(factory, think=think, style=style, parser=parser)


@pytest.mark.parametrize("parser", [name for name in PARSERS if name.startswith("released")])
def test_released_parsers_pass_the_conformance_kit(parser):
    check_prompt_interface(BboxPoints, parser=parser)


@pytest.mark.lane
def test_a_template_passes_the_conformance_kit(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("<image>\nQuestion: {Question}\nSay <answer>{Answer}</answer>", encoding="utf-8")
    check_prompt_interface(BboxPoints, template=path)
    interface = BboxPoints(template=str(path))
    assert pickle.loads(pickle.dumps(interface)) == interface
