#!/usr/bin/env bash
# Multi30k German to English as a data-bin.
#
# Usage: scripts/prepare_multi30k.sh [OUT] [OPTIONS]
#
# OUT: the folder of the data-bin (default: data-bin/multi30k.de-en). Without --raw DIR, the files are downloaded.
# OPTIONS: of `fairseq-kd prepare`, such as --raw DIR or --vocab-size 8000.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
prepare data-bin/multi30k.de-en multi30k --source-lang de --target-lang en --vocab-size 4000 -- "$@"
