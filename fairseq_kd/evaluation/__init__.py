"""Evaluation: checkpoint + subset -> translations -> scores and measures -> result.json -> comparison of results."""
