#!/usr/bin/env bash
# IWSLT17 English to French as a data-bin.
#
# Usage: scripts/prepare_iwslt17.sh [OUT] [OPTIONS]
#
# OUT: the folder of the data-bin (default: data-bin/iwslt17.en-fr). Without --raw DIR, the archives are downloaded.
# OPTIONS: of `fairseq-kd prepare`, such as --raw DIR or --vocab-size 8000.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
prepare data-bin/iwslt17.en-fr iwslt17.en-fr -- "$@"
