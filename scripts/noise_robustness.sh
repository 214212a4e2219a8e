#!/usr/bin/env bash
# What students learn from noisy training sources.
# Usage: scripts/noise_robustness.sh [RECIPE] [further options of fairseq-kd study run]
# RECIPE: synthetic (default), multi30k, iwslt14.de-en ...; named corpora are downloaded without --raw DIR.
set -euo pipefail
recipe=${1:-synthetic}
[ $# -gt 0 ] && shift
exec fairseq-kd study run noise --recipe "$recipe" --out "runs/noise-$recipe" "$@"
