"""The quickstart: prepare -> teacher -> plain student and distilled student a seed -> scores -> table.

recipe (YAML) -> run (the order of the stages; trainings by `training`) -> table
"""
