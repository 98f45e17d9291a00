#!/usr/bin/env bash
# Install the wheels of scripts/pack_device.sh aside and run `python -m benchmarks.device` with them:
#
#   scripts/run_device.sh [--budget SECONDS] [--stages ...]      results go into $OUT, or outputs/device
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .device/wheels/*.whl
# Packages without byte code would be compiled anew by every process.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX="$site/byte_code"
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
"$python" -m benchmarks.device --out "${OUT:-outputs/device}" --data .device/data "$@"
