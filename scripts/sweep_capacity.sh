#!/usr/bin/env bash
# What students of several sizes gain from a teacher.
# Usage: scripts/sweep_capacity.sh [RECIPE] [further options of fairseq-kd study run]
# RECIPE: synthetic (default), multi30k, iwslt14.de-en ...; named corpora are downloaded without --raw DIR.
set -euo pipefail
recipe=${1:-synthetic}
[ $# -gt 0 ] && shift
exec fairseq-kd study run capacity --recipe "$recipe" --out "runs/capacity-$recipe" "$@"
