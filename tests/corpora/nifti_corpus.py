"""NIfTI files over all that the format lets vary, and what nibabel and SimpleITK read from them; nifti1.h decides."""

import logging
from collections.abc import Iterator

import nibabel
import numpy as np
import raster_files
import SimpleITK
from raster_corpus import RasterFile, files_by, grey3, image_difference, mask_difference, numbers_of, pick, windowed

from medground.images.read import open_image
from medground.images.view import View

logging.getLogger("nibabel.global").setLevel(logging.ERROR)  # it tells of every offset that SPM would not read


def nifti_files(count: int, seed: int = 0) -> Iterator[RasterFile]:
    """Yield `count` volumes."""
    return files_by(_nifti, count, [seed])


def _nifti(dice, number):
    shape = tuple(int(side) for side in dice.integers(2, 9, 3))
    kind = str(pick(dice, *raster_files.NIFTI_CODES))
    values = numbers_of(dice, kind, shape) if dice.random() < 0.7 else dice.integers(0, 4, shape).astype(kind)
    steps = dice.uniform(0.3, 5, 3).round(3)
    b, c, d = dice.normal(size=3) * pick(dice, 0.0, 0.1, 0.5)
    norm = max(1.0, float(np.sqrt(b * b + c * c + d * d)) * 1.001)
    qfac = float(pick(dice, -1, 1))
    qform = (b / norm, c / norm, d / norm, *dice.normal(scale=50, size=3), qfac)
    permutation = np.eye(3)[dice.permutation(3)] * dice.choice([-1, 1], 3) if dice.random() < 0.5 else np.eye(3)
    rotation = nibabel.quaternions.quat2mat(nibabel.quaternions.fillpositive(np.array(qform[:3])))
    matrix = rotation @ permutation * steps
    sform = np.hstack([matrix, dice.normal(scale=50, size=(3, 1))])
    which = str(pick(dice, *("sform", "qform", "both") * 3, "none"))
    if which == "both":
        sform = np.hstack([rotation * [1, 1, qfac] * steps, sform[:, 3:]])
    slope, inter = pick(dice, (0, 0), (1, 0), (0.5, -3), (2, 7), (np.nan, 0), (3e-5, 0.0), (0, 9))
    options = {
        "order": pick(dice, "<", ">"), "sform": sform if which in ("sform", "both") else None,
        "qform": qform if which in ("qform", "both") else None, "steps": steps, "slope": slope, "inter": inter,
        "units": int(pick(dice, *(0, 1, 2, 2, 2, 3, 2 | 8) * 2, 5)),
        "offset": pick(dice, *[352] * 8, 368, 1000, 0, 348, 352.5),
        "zipped": bool(dice.integers(2)), "sform_code": int(pick(dice, 1, 2, 3, 4)), "qform_code": int(pick(dice, 1, 2)),
    }  # fmt: skip
    about = ", ".join(f"{key} {value}" for key, value in options.items() if key not in ("sform", "qform", "steps"))
    if dice.random() < 0.1:
        values = dice.integers(0, 256, (*shape, 3), np.uint8)
        options |= {"slope": 0, "inter": 0}  # by which nifti1.h scales no colours
        data = raster_files.nifti(values, code=128, **options)
    elif dice.random() < 0.1 and which != "none":
        second = nibabel.Nifti2Image(values, np.vstack([sform, [0, 0, 0, 1]]), dtype=kind)
        second.header.set_slope_inter(*(slope or 1, inter) if np.isfinite(slope) else (1, 0))
        data = second.to_bytes()
        options |= {"zipped": False, "units": 0, "offset": 544}
        about = f"NIfTI-2, slope {slope}, inter {inter}"
    else:
        data = raster_files.nifti(values, **options)
    name = f"{number}.nii.gz" if options["zipped"] != (dice.random() < 0.1) else f"{number}.nii"
    return RasterFile(
        name, f"{kind}, {which}, {about}", data, lambda path: _compare_nifti(path, which, options, dice)
    )  # fmt: skip


def _compare_nifti(path, which, options, dice):
    plane = str(pick(dice, "axial", "coronal", "sagittal"))
    across = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    view = View(plane=plane, slice=0)
    image = open_image(path, view)  # what is refused needs no oracle
    honest = path.with_name("honest.nii.gz" if options["zipped"] else "honest.nii")
    honest.write_bytes(path.read_bytes())
    try:
        source = nibabel.load(honest)
        values = np.asarray(source.dataobj)
        # SimpleITK reads no NIfTI-2; its pixels of colours are vectors, which nibabel's are compared for alone.
        judged = isinstance(source, nibabel.Nifti1Image) and not isinstance(source, nibabel.Nifti2Image)
        judge = SimpleITK.ReadImage(str(honest)) if judged and values.dtype.names is None else None
    finally:
        honest.unlink()
    orientation = nibabel.io_orientation(source.affine)
    axis = int(np.flatnonzero(orientation[:, 0] == across)[0])
    view = View(plane=plane, slice=int(dice.integers(values.shape[axis])))
    canonical = values.shape[axis] - 1 - view.slice if orientation[axis, 1] < 0 else view.slice
    picture = nibabel.apply_orientation(values, orientation).take(canonical, axis=across).T[::-1, ::-1]
    colours = np.stack([picture[name] for name in "RGB"], axis=-1) if picture.dtype.names else grey3(windowed(picture))
    difference = image_difference(path, colours, 1, view)
    if difference or judge is None:
        return difference
    axes = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(judge.GetDirection())
    if axes != "".join(nibabel.aff2axcodes(source.affine)):
        return ""  # of axes between two anatomical ones the libraries choose differently; nifti1.h names no nearest
    lps = SimpleITK.DICOMOrient(SimpleITK.Cast(judge, SimpleITK.sitkFloat64), "LPS")
    theirs = SimpleITK.GetArrayFromImage(lps)
    back = canonical if across == 2 else lps.GetSize()[across] - 1 - canonical
    seen = theirs.take(back, axis=2 - across)
    seen = seen if plane == "axial" else seen[::-1]
    # "If the scl_slope field is nonzero" the voxels are scaled, says nifti1.h; SimpleITK adds scl_inter to unscaled ones too.
    scaled = options["slope"] != 0 or options["inter"] == 0
    number = np.isfinite(picture)  # of which it makes 0
    if scaled and not np.allclose(seen[number], picture[number], rtol=1e-5, atol=1e-4):
        return "SimpleITK sees another picture"
    rows, columns = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}[plane]
    stated = (lps.GetSpacing()[rows], lps.GetSpacing()[columns])
    if not np.allclose(image.spacing, stated, rtol=1e-4):
        return f"the spacing is {image.spacing}, not {stated}"
    return mask_difference(path, picture, dice, view) if values.dtype.kind in "iu" else ""
