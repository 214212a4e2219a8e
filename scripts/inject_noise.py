#!/usr/bin/env python3
"""Noise of known rates in a parallel corpus: `fairseq-kd noise` under the name that readers of the papers look for.

Usage: scripts/inject_noise.py --source-lang de --target-lang en --prefix train --out train.noisy --delete 0.1 --seed 1
"""

import sys

from fairseq_kd.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["noise", *sys.argv[1:]]))
