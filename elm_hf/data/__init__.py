"""Datasets in the elm-hf layout: columns, loading, mixing, and the messages of conversations."""
