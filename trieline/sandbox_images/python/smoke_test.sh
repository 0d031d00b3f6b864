#!/usr/bin/env bash
# Does the image have what the sandbox needs? Usage: smoke_test.sh [IMAGE]
set -euo pipefail

image=${1:-trieline/python:1}
inside='
import ctypes, os, shutil, sys
assert sys.version_info >= (3, 9), sys.version
assert os.getuid() == 1000, os.getuid()
assert hasattr(os, "pidfd_open")
assert shutil.which("git") is None or os.access(shutil.which("git"), os.X_OK)
ctypes.CDLL(None).prctl
assert not os.access("/usr", os.W_OK)
'
docker run --rm --network=none --read-only --cap-drop=ALL --security-opt=no-new-privileges \
    --user=1000:1000 --entrypoint=python3 "$image" -I -S -c "$inside"
