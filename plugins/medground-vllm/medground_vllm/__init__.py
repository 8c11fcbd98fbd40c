"""Rollouts written by vLLM, in this process or on a server."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_rollouts(register: Register) -> None:
    """Offer the rollout sources."""
    from medground_vllm import factories

    register("vllm", factories.vllm)
    register("vllm_server", factories.vllm_server)
