"""The quickstart: prepare -> teacher -> plain student and distilled student a seed -> scores -> table.

recipe (YAML) -> train (one fairseq-train run, resumable) -> run (the order of the stages) -> table
"""
