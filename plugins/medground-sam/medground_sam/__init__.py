"""SAM, MedSAM and SAM-Med2D segmenters."""
