#!/usr/bin/env bash
# The classical rules, GAA and the oracle on digits, 2 of 10 workers Byzantine. Results: baselines/README.md.
set -euo pipefail
byzgym compare --num-byzantine 2 --seeds 3 --rounds 300 \
    --policies mean krum multi_krum medoid geometric_median median mean_around_median trimmed_mean bulyan faba \
    brute_force norm_clipping gaa oracle \
    --attacks none gaussian sign_flip ipm alie label_flip --out "${1:-runs/minority}"
