#!/usr/bin/env bash
# Multi30k German to English as a data-bin. Usage: scripts/prepare_multi30k.sh [OUT] [further options of fairseq-kd prepare]
# Without --raw DIR the files are downloaded.
set -euo pipefail
out=${1:-data-bin/multi30k.de-en}
[ $# -gt 0 ] && shift
exec fairseq-kd prepare multi30k --source-lang de --target-lang en --vocab-size 4000 --out "$out" "$@"
