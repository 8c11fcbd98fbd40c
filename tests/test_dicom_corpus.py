"""Generated DICOM files are shown as the standard says or refused; SimpleITK and pydicom agree, or the text is cited."""

import collections
import io
import random
import warnings

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs pydicom")
pytest.importorskip("jpeg_ls", reason="needs pyjpegls")

from dicom_corpus import WRONG, cases, refused  # noqa: E402
from dicom_parts import Case  # noqa: E402

from medground.errors import MedgroundError  # noqa: E402
from medground.images.read import open_image  # noqa: E402
from medground.images.view import View  # noqa: E402


def outcome(case: Case, path) -> str:
    """``right``, ``refused``, or what is wrong."""
    path.write_bytes(case.data())
    try:
        image = open_image(path, View(slice=case.frame, window=case.window))
    except MedgroundError as error:
        assert error.exit_code in (2, 3, 4) and error.hint and "\n" not in str(error)
        return "refused" if case.shown is None else f"refused: {error}"
    if case.shown is None:
        return "accepted"
    shown = case.shown if case.shown.ndim == 3 else np.repeat(case.shown[..., None], 3, axis=2)
    if image.pixels.shape != shown.shape:
        return f"of shape {image.pixels.shape}"
    off = np.abs(image.pixels.astype(float) - shown).max()
    return "right" if off <= case.tolerance else f"off by {off:g} ({image.window})"


def by_pydicom(case: Case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(case.data()))
        stored = pydicom.pixels.pixel_array(dataset, index=case.frame or 0)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            return pydicom.pixels.apply_color_lut(stored, dataset)
        return pydicom.pixels.apply_rescale(stored, dataset) if stored.ndim == 2 else stored


def by_itk(case: Case, path):
    itk = pytest.importorskip("SimpleITK", reason="needs SimpleITK")
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    array = itk.GetArrayFromImage(itk.ReadImage(str(path)))
    return array[case.frame or 0] if array.ndim == (4 if case.values.ndim == 3 else 3) else array


def agreed(case: Case, oracle, *where) -> str:
    try:
        values = oracle(case, *where)
    except pytest.skip.Exception:
        raise
    except Exception:  # noqa: BLE001  the oracles raise whatever they raise
        return "cannot read"
    if values.shape != case.values.shape:
        return "another shape"
    return (
        "agrees"
        if np.abs(values.astype(float) - case.values).max() <= 1 - 1e-3 * (case.values.ndim == 2)
        else "differs"
    )


def check(folder, count: int, seed: int) -> collections.Counter:
    path = folder / "case.dcm"
    outcomes: collections.Counter[str] = collections.Counter()
    for number, case in enumerate(cases(count, seed)):
        result = outcome(case, path)
        expected = "refused" if case.shown is None else "right"
        assert result == expected, f"file {number} of seed {seed} is {result}: {case.kind}"
        outcomes[result] += 1
        if case.values is None:
            continue
        for oracle, verdict in (("pydicom", agreed(case, by_pydicom)), ("itk", agreed(case, by_itk, path))):
            outcomes[f"{oracle} {verdict}"] += 1
            assert verdict in ("agrees", "cannot read") or oracle in case.differs, (
                f"file {number} of seed {seed}: {oracle} {verdict}: {case.kind}"
            )
    return outcomes


@pytest.mark.slow
def test_generated_files_are_shown_by_the_standard(tmp_path):
    outcomes = check(tmp_path, 60, seed=1)
    assert outcomes["right"] >= 45 and outcomes["refused"] >= 10


@pytest.mark.parametrize("what", WRONG)
def test_every_contradiction_is_refused(tmp_path, what):
    for seed in range(3):
        assert outcome(refused(random.Random(seed), what), tmp_path / "case.dcm") == "refused"


@pytest.mark.slow
def test_four_hundred_generated_files(tmp_path):
    check(tmp_path, 400, seed=2)


@pytest.mark.soak
def test_two_thousand_generated_files(tmp_path):
    outcomes = check(tmp_path, 2000, seed=3)
    print(dict(outcomes))
    assert outcomes["right"] + outcomes["refused"] == 2000 and outcomes["itk agrees"] >= 500
