"""Datasets in the layout of elm-hf: loading, mixing, and the messages of their conversations."""
