"""A single ECG: reading, simulating, measuring and drawing it."""
