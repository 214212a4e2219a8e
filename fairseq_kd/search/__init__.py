"""Searches for the best options of word-level distillation: greedy, grid, Optuna. Each batch of trials is a study."""
