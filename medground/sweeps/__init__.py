"""``medground.sweep``: the variants of one recipe, over seeds and datasets, measured and compared."""
