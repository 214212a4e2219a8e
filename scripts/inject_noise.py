#!/usr/bin/env python3
"""Noise of known rates in a parallel corpus: `fairseq-kd noise` under the name that readers of the papers look for.

Usage: scripts/inject_noise.py --source-lang de --target-lang en --prefix train --out train.noisy --delete 0.1 --seed 1
"""

import sys

try:
    from fairseq_kd.cli.main import main
except ModuleNotFoundError as error:
    print(f"{error}: run `make quickstart` first, then .venv/bin/python {sys.argv[0]}", file=sys.stderr)
    raise SystemExit(2) from None

if __name__ == "__main__":
    sys.exit(main(["noise", *sys.argv[1:]]))
