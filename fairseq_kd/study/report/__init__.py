"""Report of a study: one HTML file that needs nothing else, the same as Markdown, and every plot as an SVG.

results.json ──> rows ──> marks ──> tables ──────────────┐
stages/*/result.json  │                                  ├──> page ──> report.html, report.md, plots/*.svg
stages/*/train.log    └─> series, curves ──> by_factor,  │
                                             measured ───┘
stages/*/done.json, failed.json ──> provenance ──────────┘
"""
