"""Leakage: what the training data, the question alone, and age and sex give away about the answers."""
