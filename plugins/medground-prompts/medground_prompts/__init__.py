"""The prompt interfaces: how a reasoner is asked and how its answer is read."""
