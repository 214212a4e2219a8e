#!/usr/bin/env bash
# IWSLT17 English to French as a data-bin. Usage: scripts/prepare_iwslt17.sh [OUT] [further options of fairseq-kd prepare]
# Without --raw DIR the archives are downloaded.
set -euo pipefail
out=${1:-data-bin/iwslt17.en-fr}
[ $# -gt 0 ] && shift
exec fairseq-kd prepare iwslt17.en-fr --out "$out" "$@"
