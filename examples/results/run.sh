#!/usr/bin/env bash
# The figures in README.md beside this file: four rows of options over clips whose truth is known.
#
#     examples/results/run.sh DATA [OUTPUT] [OPTIONS...]       (default output: out/results)
#
# DATA holds hololens/, rgbd5/, davis/ and clips/ (see README.md); the example clip comes on top. What is finished is
# kept: after new weights or other options only the rows that they change are computed again. OPTIONS go to every row,
# for example `--sequences hololens`. EASI3R=... names another easi3r, for example EASI3R="python -m easi3r_ns".
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
data="${1:?usage: run.sh DATA [OUTPUT] [OPTIONS...]}"
output="${2:-out/results}"
shift; shift || true
read -r -a easi3r <<<"${EASI3R:-easi3r}"

evaluate() {
    "${easi3r[@]}" evaluate folder --root "$data" "$here/../clip" --output-dir "$output" "${common[@]}" "$@" || status=$?
}
status=0
common=(--fixed-camera blocks drift-chicane "$@")

evaluate --row colmap --baseline colmap
evaluate --row none --weights none
evaluate --row tiny --weights tiny --refine none
evaluate --row tiny+refine --weights tiny --refine colmap
exit "$status"
