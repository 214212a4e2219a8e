#!/usr/bin/env bash
# Which parameters of word-level distillation are best, by the greedy search of arXiv 2401.06356.
# Usage: scripts/search_parameters.sh [RECIPE] [further options of fairseq-kd search]
# RECIPE: synthetic (default), multi30k, iwslt14.de-en ...; named corpora are downloaded without --raw DIR.
set -euo pipefail
recipe=${1:-synthetic}
[ $# -gt 0 ] && shift
exec fairseq-kd search greedy --recipe "$recipe" --out "runs/search-$recipe" "$@"
