"""GRPO with groups that share one image and one prompt.

Read `step` first. `advantage` turns the rewards of a group into advantages; `loss` turns log-probabilities and advantages
into one number to differentiate. Both are pure functions of tensors, so that each can be compared with a slow reference
and with other trainers.
"""
