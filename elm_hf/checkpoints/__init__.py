"""Checkpoints: creating, converting, loading, merging and publishing them."""
