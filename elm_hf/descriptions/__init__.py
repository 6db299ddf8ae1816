"""ECGs described in words, for alignment."""
