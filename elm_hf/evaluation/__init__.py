"""Evaluation: questions under each condition, scores and reports."""
