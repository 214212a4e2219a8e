"""Evaluation: checkpoint + subset -> translations -> sacreBLEU scores with signatures -> result.json."""
