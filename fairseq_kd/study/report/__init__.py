"""The report of a study: one self-contained HTML file, the same content as Markdown, plots, CSV and LaTeX tables.

    results.json, stages/*/result.json -> rows          cells that differ only in their seed, as one row
                                       -> tables        scores with marks of significance, measures
                                       -> drops         what noise costs
                                       -> changes       segments gained and lost since a student began
                                       -> federated     rounds, bytes and updates of federated runs until the target
                                       -> limits        where the results stop being meaningful
                                       -> outcome       what came out, in short
                                       -> good_teachers what makes a good teacher, by `correlate`, shown by `parts`
                                       -> tuning        when tuning pays, in the same way
                                       -> plots         BLEU against factors and against the number of parameters
                                       -> cells_csv     every number, unrounded
    comparisons of claims              -> verdicts      verdicts as sentences
    spec, commands, data-bins          -> data, tested  the box "What was tested", with the texts of `words`
              also stages/*/train.log  -> measured      plots of noise, reliability, latency, training curves
    stages/*/done.json, failed.json    -> provenance    commands, versions, hashes, unfinished and failed stages
    all of these                       -> write         the files, by the templates here, `markdown` and `latex`

`draw` draws one picture with matplotlib, in the colours of `styles`; `plots` and `measured` use it.
"""
