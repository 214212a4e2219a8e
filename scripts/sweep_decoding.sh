#!/usr/bin/env bash
# What the teacher's targets should be made by.
# Usage: scripts/sweep_decoding.sh [RECIPE] [further options of fairseq-kd study run]
# RECIPE: synthetic (default), multi30k, iwslt14.de-en ...; named corpora are downloaded without --raw DIR.
set -euo pipefail
recipe=${1:-synthetic}
[ $# -gt 0 ] && shift
exec fairseq-kd study run decoding --recipe "$recipe" --out "runs/decoding-$recipe" "$@"
