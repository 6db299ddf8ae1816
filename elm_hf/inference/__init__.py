"""Answers of a model: in batches, or about a single ECG."""
