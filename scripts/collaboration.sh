#!/usr/bin/env bash
# What models on different parts of the data gain from each other (configs/studies/collaboration.yaml).
#
# Usage: scripts/collaboration.sh [RECIPE] [OPTIONS]
#
# RECIPE: synthetic (default), multi30k, iwslt14.de-en, ... or a YAML file. Without --raw DIR, named corpora are downloaded.
# OPTIONS: of `fairseq-kd study run`, such as --dry-run, --jobs 2 or --out DIR (default: runs/collaboration-RECIPE).
# The command ends with the report and its path.
# After an interrupt, the same command continues.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
study collaboration "$@"
