#!/usr/bin/env bash
# WMT14 English to German as a data-bin.
#
# Usage: scripts/prepare_wmt14.sh [OUT] [OPTIONS]
#
# OUT: the folder of the data-bin (default: data-bin/wmt14.en-de). Without --raw DIR, the archives are downloaded.
# OPTIONS: of `fairseq-kd prepare`, such as --raw DIR or --vocab-size 8000.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
prepare data-bin/wmt14.en-de wmt14.en-de -- "$@"
