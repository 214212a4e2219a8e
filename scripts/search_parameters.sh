#!/usr/bin/env bash
# Which parameters of word-level distillation are best.
# Usage: scripts/search_parameters.sh [RECIPE] [further options of fairseq-kd study run]
# RECIPE: synthetic (default), multi30k, iwslt14.de-en ...; named corpora are downloaded without --raw DIR.
set -euo pipefail
recipe=${1:-synthetic}
[ $# -gt 0 ] && shift
exec fairseq-kd study run parameters --recipe "$recipe" --out "runs/parameters-$recipe" "$@"
