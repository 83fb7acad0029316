#!/bin/sh
# Everything that needs a CUDA GPU, in one command:
#
#     sh tests/peers/cuda.sh [FOLDER]
#
# Builds llama-cpp-python with CUDA into a fresh environment in FOLDER (default: cuda-results in
# the user's cache), then the test suite, doctor, bench on the starter pool, and emulation with a
# 7B-class random target and a 0.5B-class drafter of 152k tokens on the MetaSD profile: V(n),
# drafter costs, own overhead and of_oracle are in the JSON files written there.
# Needs the CUDA toolkit (nvcc), a C++ compiler, 12 GB of disk, 10 GB on the GPU and an hour.
# Has not been run yet: no machine with a CUDA GPU was at hand when it was written.
set -eu

repository=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-"${XDG_CACHE_HOME:-$HOME/.cache}/metasd-local-cuda"}
mkdir -p "$folder"
cd "$folder"

command -v nvcc >/dev/null || { echo "nvcc is not on PATH: install the CUDA toolkit" >&2; exit 1; }
python3 -m venv environment
CMAKE_ARGS="-DGGML_CUDA=on ${CMAKE_ARGS:-}" environment/bin/pip install \
    --no-binary llama-cpp-python "$repository[test]"
PATH="$folder/environment/bin:$PATH"

metasd doctor --json >machine.json
python - <<'CHECK'
import json

found = json.load(open("machine.json", encoding="utf-8"))
if not found["gpu_offload"]:
    raise SystemExit(f"llama.cpp finds no GPU: {found['devices']}")
CHECK
(cd "$repository" && python -m pytest) 2>&1 | tee tests.txt
metasd doctor starter | tee starter-doctor.txt
metasd doctor starter --json >starter-doctor.json
metasd bench starter --json >starter-bench.json

metasd lab make-pair pair --target-params 7B --drafter-params 500M --vocab 152k
target=$(echo pair/target-*.gguf)
drafter=$(echo pair/drafter-*.gguf)
metasd doctor "$target" --drafters "$drafter" | tee pair-doctor.txt
metasd doctor "$target" --drafters "$drafter" --json >pair-doctor.json
metasd lab emulate metasd "$target" --drafters "$drafter" --minutes 20 --json >pair-emulation.json
echo "results: $folder"
