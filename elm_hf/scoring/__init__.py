"""Scoring: from a table of predictions to scores with intervals over patients, by type, by confidence and by subgroup."""
