"""What every run writes: its folder, checkpoints, provenance, and where a test may interrupt it."""
