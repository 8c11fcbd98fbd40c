"""Masks as files in the geometry of what they segment: NIfTI, NRRD, DICOM SEG, RTSTRUCT and secondary captures."""
