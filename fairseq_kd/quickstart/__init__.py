"""The quickstart: corpus -> teacher -> plain and distilled students, one of each per seed -> scores -> table.

`recipe` reads the YAML file. `run` runs the stages in order and prints the table; trainings run in `training.run`.
"""
