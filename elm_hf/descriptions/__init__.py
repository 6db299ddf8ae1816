"""Descriptions of ECGs in words, for alignment."""
