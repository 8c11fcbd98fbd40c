"""The families as parameters of tests: the fast ones build two, the slow ones all."""

import other_families
import pytest

QUICK = ("gemma3", "qwen3_5")
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(other_families.BUILDERS)
]
