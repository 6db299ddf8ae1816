"""Classification of labelled ECGs: encoders as classifiers or behind linear probes, and zero-shot classification."""
