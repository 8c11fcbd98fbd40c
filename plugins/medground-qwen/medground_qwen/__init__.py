"""Qwen2.5-VL, Lingshu, Qwen3-VL and other vision-language reasoners of transformers."""
