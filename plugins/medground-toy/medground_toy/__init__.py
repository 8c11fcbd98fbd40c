"""CPU twins at every seam: phantoms, a rule reasoner, segmenters with no weights."""
