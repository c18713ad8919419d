#!/usr/bin/env bash
# From a fresh Debian or Ubuntu to a nerfstudio dataset of the example clip: cameras, motion masks, depth, points.
#
#     examples/quickstart.sh [VENV] [OUTPUT]        (default: .venv out/clip)
#
# Needs Python 3.10 or newer, about 6 GB of disk for the environment and, the first time, a network connection.
# Running it again reuses the environment and replaces the dataset. PYTHON=... chooses another interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${1:-.venv}"
output="${2:-out/clip}"
python="${PYTHON:-python3}"

say() { printf '\n== %s\n' "$*"; }

# 1. System libraries that open3d loads; what is there already is left alone.
if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    wanted=(libusb-1.0-0 libgl1 libgomp1)
    # Debian and Ubuntu keep the part of Python that makes environments in a package of its own.
    "$python" -c 'import ensurepip' 2>/dev/null || wanted+=(python3-venv)
    missing=()
    for package in "${wanted[@]}"; do
        dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if ((${#missing[@]})); then
        as_root=()
        if ((EUID)); then as_root=(sudo); fi
        say "installing system packages: ${missing[*]}${as_root:+ (through sudo)}"
        "${as_root[@]}" apt-get update
        "${as_root[@]}" apt-get install --yes --no-install-recommends "${missing[@]}"
    fi
else
    say "no Debian or Ubuntu: make sure that libusb-1.0, libGL and libgomp are installed"
fi

# 2. A virtual environment with the project in it; nerfstudio and PyTorch come along.
say "environment $venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check .

# 3. The clip becomes a dataset. `tiny` are the small weights that ship with the package: no download.
say "examples/clip/clip.mp4 -> $output"
"$venv/bin/ns-process-data" easi3r --data examples/clip/clip.mp4 --output-dir "$output" --weights tiny --overwrite

# 4. A check that shares no code with what wrote the dataset.
say "checking $output"
"$venv/bin/python" examples/check_dataset.py "$output"
