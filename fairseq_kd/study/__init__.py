"""Studies: one YAML file -> cells -> stages that are shared -> Snakemake -> one result a cell.

spec (YAML) -> routes      which option each factor sets; no two the same, and none that the study sets itself
            -> factors     the cells: every combination of the factors' values that is not excluded
            -> plan        the stages of each cell; the same stage of two cells is one, found by its key
            -> check       every command is parsed by the program it is for, before anything runs
            -> Snakefile   scheduling, retries, clusters; each job is `stage`, one command in one folder
            -> status, results

search_spec (YAML) -> search_run     each batch that `search` or `optuna_search` asks for is such a study
                   -> search_report  the trace, the choice on test data, what a wrong choice costs at most
"""
