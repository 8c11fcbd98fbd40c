"""Train a reasoner, supervised or by GRPO."""
