"""The report of a study: one self-contained HTML file, the same content as Markdown, and every plot as an SVG file.

    results.json, stages/*/result.json -> rows          cells that differ only in their seed, as one row
                                       -> tables        scores with marks of significance, measures, claims
                                       -> plots         BLEU against factors and against the number of parameters
              also stages/*/train.log  -> measured      plots of noise, reliability, latency, training curves
    stages/*/done.json, failed.json    -> provenance    commands, versions, hashes, unfinished and failed stages
    all of these                       -> write         report.html, report.md, plots/*.svg, by the templates here

`draw` draws one picture with matplotlib; `plots` and `measured` use it.
"""
