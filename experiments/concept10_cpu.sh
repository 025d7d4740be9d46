#!/usr/bin/env bash
# The three variants, each with the contrastive term (150 steps) and without it (300 steps); about an
# hour on 2 cores with native bf16. A run that was cut off goes on where its newest checkpoint stands.
set -euo pipefail
: "${HYPERSTEER_AXBENCH:?set it to the folder that holds concept10/prod_2b_l10_v1 and concept10/prod_2b_l20_v1}"
settings="$(dirname "$0")/concept10_cpu.toml"
for variant in cross-attention no-context in-context; do
  hypersteer train "$settings" --hypernet.variant "$variant" \
    --loss.contrast 2.0 --out "runs/concept10/$variant-contrast"
  hypersteer train "$settings" --hypernet.variant "$variant" \
    --optim.steps 300 --out "runs/concept10/$variant-300"
done
