#!/usr/bin/env bash
# Does the image have what an agent's shell needs? Usage: smoke_test.sh [IMAGE]
set -euo pipefail

image=${1:-trieline/shell:1}
inside='
set -e
[ "$(id -u):$(pwd)" = 1000:/work ]
python3 -I -S -c "import ctypes, sys; assert sys.version_info >= (3, 9), sys.version"
for tool in bash git patch sed grep find awk tar; do command -v "$tool" >/dev/null || { echo "no $tool"; exit 1; }; done
echo text > file
[ "$(cat file)" = text ]
[ ! -w /usr ]
'
docker run --rm --network=none --cap-drop=ALL --security-opt=no-new-privileges \
    --user=1000:1000 --entrypoint=bash "$image" -lc "$inside"
