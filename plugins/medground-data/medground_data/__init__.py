"""Author datasets: read sources of images and masks, build samples with questions."""
