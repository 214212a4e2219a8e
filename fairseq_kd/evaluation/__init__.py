"""Evaluation: checkpoint + subset -> translations -> scores and measures -> result.json -> comparisons of several."""
