"""Recipes as tasks of other frameworks: their prompts, their samples and their rewards. Each module needs its framework."""
