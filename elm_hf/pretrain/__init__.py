"""Pre-training of ECG encoders."""
