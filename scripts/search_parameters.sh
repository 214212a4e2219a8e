#!/usr/bin/env bash
# Which parameters of word-level distillation are best: the greedy search of arXiv 2401.06356
# (configs/searches/greedy.yaml).
#
# Usage: scripts/search_parameters.sh [RECIPE] [OPTIONS]
#
# RECIPE: synthetic (default), multi30k, iwslt14.de-en, ... or a YAML file. Without --raw DIR, named corpora are downloaded.
# OPTIONS: of `fairseq-kd search`, such as --jobs 2 or --out DIR (default: runs/search-RECIPE).
# The command ends with the report and its path.
# After an interrupt, the same command continues.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
search greedy "$@"
