"""Every file of a large corpus is read as other libraries read it, or refused: none is silently different."""

from collections import Counter

import pytest

pytest.importorskip("tifffile", reason="needs tifffile")
pytest.importorskip("SimpleITK", reason="needs SimpleITK")
pytest.importorskip("nibabel", reason="needs nibabel")

from nifti_corpus import nifti_files
from raster_corpus import outcome, raster_files_of

KINDS = {"tiff": 0.55, "png": 0.8, "jpeg": 0.6, "nifti": 0.25}
"""Kind -> the least share of its files that is read; the corpus holds many that are refused on purpose."""


def compare(tmp_path, kind, count):
    files = nifti_files(count) if kind == "nifti" else raster_files_of(kind, count)
    results = Counter(outcome(file, tmp_path) for file in files)
    different = {text: number for text, number in results.items() if text not in ("same", "refused")}
    print(f"{kind}: {count} files, {results['same']} same, {results['refused']} refused, {len(different)} different")
    assert not different
    assert results["same"] >= KINDS[kind] * count


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_corpus_is_read_right_or_refused(tmp_path, kind):
    compare(tmp_path, kind, 60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_is_read_right_or_refused(tmp_path, kind):
    compare(tmp_path, kind, 250)


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "count"), [("tiff", 800), ("png", 400), ("jpeg", 200), ("nifti", 600)])
def test_two_thousand_files_are_read_right_or_refused(tmp_path, kind, count):
    compare(tmp_path, kind, count)
