"""Creating, converting, loading, merging and publishing checkpoints."""
