"""A reasoner behind any OpenAI-compatible server: vLLM, llama.cpp, Ollama, or a hosted model."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_reasoners(register: Register) -> None:
    """Offer the reasoner."""
    from medground_openai.reasoner import OpenAIReasoner

    register("openai", OpenAIReasoner)


@hookimpl
def self_check() -> None:
    """Make a reasoner that knows what its model counts; nothing is sent."""
    from medground_openai.reasoner import OpenAIReasoner

    assert OpenAIReasoner(model="any", frame="unit").frame((8, 8)).kind == "unit"
