"""Scores of translations by sacreBLEU, with their signatures."""
