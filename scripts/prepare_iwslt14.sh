#!/usr/bin/env bash
# IWSLT14 German to English as a data-bin. Usage: scripts/prepare_iwslt14.sh [OUT] [further options of fairseq-kd prepare]
# Without --raw DIR the archives are downloaded.
set -euo pipefail
out=${1:-data-bin/iwslt14.de-en}
[ $# -gt 0 ] && shift
exec fairseq-kd prepare iwslt14.de-en --out "$out" "$@"
