"""Rollouts written by vLLM, in this process or on a server."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_rollouts(register: Register) -> None:
    """Offer the rollout sources."""
    from medground_vllm import factories

    register("vllm", factories.vllm)
    register("vllm_server", factories.vllm_server)


@hookimpl
def self_check() -> None:
    """Ask vLLM for its version, and whether it takes the parameters that rollouts are drawn with."""
    from medground_vllm import api

    api.self_check()
