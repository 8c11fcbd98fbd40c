"""Qwen2.5-VL, Lingshu, Qwen3-VL and other vision-language reasoners of transformers."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_reasoners(register: Register) -> None:
    """Offer the reasoners."""
    from medground_qwen import factories

    register("qwen2_5_vl", factories.qwen2_5_vl)
    register("lingshu", factories.lingshu)
    register("qwen3_vl", factories.qwen3_vl)
    register("toy_vlm", factories.toy_vlm)
    register("hf_vlm", factories.hf_vlm)


@hookimpl
def self_check() -> None:
    """Adapt the tiny model of the package, let it write, learn once, and load what it learnt."""
    from medground_qwen.checking import self_check

    self_check()
