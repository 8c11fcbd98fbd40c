"""Every segmenter passes the conformance kit and declares its prompts without loading torch."""

import subprocess
import sys

import pytest
from medground_sam import MedSam, Sam, SamMed2D

from medground.testing import check_segmenter


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["transformers", "official"])
@pytest.mark.lane
def test_sam_passes_the_conformance_kit(sam_file, backend):
    check_segmenter(Sam, checkpoint=sam_file, backend=backend)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["native", "medreasoner"])
def test_medsam_passes_the_conformance_kit(sam_file, protocol):
    check_segmenter(MedSam, checkpoint=sam_file, protocol=protocol)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["native", "medreasoner"])
def test_sammed2d_passes_the_conformance_kit(med2d_file, protocol):
    check_segmenter(SamMed2D, checkpoint=med2d_file, protocol=protocol)


def test_accepted_prompts_are_known_without_torch():
    code = (
        "import sys, medground_sam as m\n"
        "everything = {'box', 'points', 'negative_points'}\n"
        "assert m.Sam.accepts == m.SamMed2D.accepts == m.ToySam.accepts == everything\n"
        "assert m.MedSam.accepts == {'box'}\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
