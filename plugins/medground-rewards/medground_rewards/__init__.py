"""Reward terms on boxes, points, masks and format."""
