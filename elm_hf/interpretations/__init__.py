"""ECG interpretations in words: claims checked against the signal, an LLM as judge, GEM's aspects, the steps of a reasoning."""
