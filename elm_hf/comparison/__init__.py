"""Comparison of several evaluations: pairs of models, means of runs, the leaderboard, costs of recipes."""
