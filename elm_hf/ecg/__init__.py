"""One ECG: reading, simulating, measuring and drawing it."""
