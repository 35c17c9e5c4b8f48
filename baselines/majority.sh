#!/usr/bin/env bash
# Classical rules, GAA, trust, set and the oracle on digits, 7 of 10 workers Byzantine. Results: baselines/README.md.
set -euo pipefail
byzgym compare --out "${1:-runs/majority}"
