"""Bytes to pixels and back: pictures, DICOM, NIfTI, masks and overlays."""
