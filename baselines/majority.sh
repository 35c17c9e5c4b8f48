#!/usr/bin/env bash
# The classical rules, GAA and the oracle on digits, 7 of 10 workers Byzantine. Results: baselines/README.md.
set -euo pipefail
byzgym compare --out "${1:-runs/majority}"
