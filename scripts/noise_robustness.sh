#!/usr/bin/env bash
# What students learn from noisy training sources (configs/studies/noise.yaml).
#
# Usage: scripts/noise_robustness.sh [RECIPE] [OPTIONS]
#
# RECIPE: synthetic (default), multi30k, iwslt14.de-en, ... or a YAML file. Without --raw DIR, named corpora are downloaded.
# OPTIONS: of `fairseq-kd study run`, such as --dry-run, --jobs 2 or --out DIR (default: runs/noise-RECIPE).
# The command ends with the report and its path.
# After an interrupt, the same command continues.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
study noise "$@"
