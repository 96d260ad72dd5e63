"""Scores in and outside a model's own data: predictions, metrics, intervals, the generalization gap."""
