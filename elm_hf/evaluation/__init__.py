"""Evaluation of a checkpoint: its answers with the ECG and with something else in its place, and the report (`elm-hf evaluate`)."""
