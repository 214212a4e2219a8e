#!/usr/bin/env bash
# WMT14 English to German as a data-bin. Usage: scripts/prepare_wmt14.sh [OUT] [further options of fairseq-kd prepare]
# Without --raw DIR the archives are downloaded.
set -euo pipefail
out=${1:-data-bin/wmt14.en-de}
[ $# -gt 0 ] && shift
exec fairseq-kd prepare wmt14.en-de --out "$out" "$@"
