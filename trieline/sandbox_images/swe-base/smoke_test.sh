#!/usr/bin/env bash
# Does the image have what a workspace on a repository needs? Usage: smoke_test.sh [IMAGE]
set -euo pipefail

image=${1:-trieline/swe-base:1}
inside='
set -e
[ "$(id -u):$(pwd)" = 1000:/testbed ]
python3 -I -S -c "import ctypes, sys; assert sys.version_info >= (3, 9), sys.version"
git init -q .
printf "one\n" > file
git add file
git commit -q -m first
printf "two\n" > file
git diff > /tmp/patch
git checkout -q file
git apply /tmp/patch
[ "$(cat file)" = two ]
patch -s -R -p1 < /tmp/patch
[ "$(cat file)" = one ]
python3 -c "import unittest"
'
docker run --rm --network=none --cap-drop=ALL --security-opt=no-new-privileges \
    --user=1000:1000 --entrypoint=bash "$image" -lc "$inside"
