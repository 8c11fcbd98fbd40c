"""Loss and gradients of TRL equal ours on the same weights, prompts, completions and rewards."""

import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("trl", reason="needs trl")

sides = pytest.importorskip("grpo_sides", reason="needs benchmarks/ of the repository")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # trl, datasets and accelerate warn on import


@pytest.fixture(scope="module")
def parity(tmp_path_factory):
    return sides.Parity(tmp_path_factory.mktemp("checkpoint"))


CASES = [
    (name, beta, drift, corrected)
    for name in ("grpo", "dr_grpo", "dapo", "cispo", "gspo")
    for beta, drift, corrected in ((0.0, 0.0, True), (0.0, 0.5, True), (0.1, 0.5, True), (0.1, 0.5, False))
]


@pytest.mark.parametrize(("name", "beta", "drift", "corrected"), CASES)
def test_loss_and_every_gradient_equal_trls(parity, name, beta, drift, corrected):
    found = parity.compare(name, beta=beta, drift=drift, corrected=corrected)
    assert found.gradients > 30, "the vision tower's among them"
    assert math.isfinite(found.theirs)
    assert found.loss <= 1e-5
    assert found.gradient <= 1e-5, found.worst


def test_the_comparison_notices_a_wrong_loss(parity):
    found = parity.compare("dapo", beta=0.0, drift=0.5, ours="grpo")
    assert found.gradient > 1e-2
