"""Reward terms weighted into a rubric, adapters for functions written elsewhere, and the audit."""
