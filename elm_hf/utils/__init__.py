"""Utilities for files, the Hub, chat models, recipes and errors."""
