"""Tiny checkpoints of the real architectures, written once per session in the released layout."""

import pytest


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    from medground_qwen import tiny

    folders = {}
    for architecture in ("qwen2_5_vl", "qwen3_vl"):
        words = tiny.tokenizer()
        folders[architecture] = tmp_path_factory.mktemp(architecture)
        made = tiny.model(architecture, words, patch=8)
        tiny.save(folders[architecture], made, tiny.processor(architecture, words, patch=8, max_side=128))
    return folders


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def architecture(request):
    return request.param


@pytest.fixture
def make(checkpoints, architecture):
    """``make(**arguments)`` builds a new reasoner of the architecture under test."""
    from medground_qwen import factories

    return lambda **arguments: getattr(factories, architecture)(
        checkpoint=str(checkpoints[architecture]), dtype="float32", device="cpu", **arguments
    )


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """``families(name)`` writes a family's checkpoint once; it skips a family that cannot be built here."""
    import other_families

    folders = {}

    def folder(name):
        if reason := other_families.why_not(name):
            pytest.skip(reason)
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            other_families.write(name, folders[name])
        return folders[name]

    return folder
