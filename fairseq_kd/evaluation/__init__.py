"""Evaluation: checkpoint + subset -> translations -> scores and measures -> result.json -> comparison of results."""

from fairseq_kd.core.public import lazily

_PLACES = {
    "calibrate": "api",
    "compare_results": "api",
    "evaluate_checkpoint": "api",
    "read_result": "results",
    "summary": "results",
    "table": "results",
    "translate_lines": "api",
}
__all__, __getattr__, __dir__ = lazily(__name__, _PLACES)
