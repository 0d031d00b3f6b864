#!/usr/bin/env bash
# Builds trieline/python:1, the image that untrusted Python runs in. Does nothing if it is already there.
# The base is $BASE, else python:3-slim where it is here or a registry answers, else one made of Debian packages.
set -euo pipefail
cd "$(dirname "$0")/.."

image=trieline/python:1
pull_seconds=20

say() { printf 'build_sandbox_image: %s\n' "$*" >&2; }
have() { docker image inspect "$1" >/dev/null 2>&1; }

if have "$image" && [ "${1:-}" != --force ]; then
    exit 0
fi
if [ -z "${BASE:-}" ]; then
    if have trieline/base:1; then
        BASE=trieline/base:1
    elif have python:3-slim || timeout "$pull_seconds" docker pull -q python:3-slim >/dev/null 2>&1; then
        BASE=python:3-slim
    else
        say "no registry answers; making a base of Debian packages"
        scripts/build_base_image.sh trieline/base:1
        BASE=trieline/base:1
    fi
fi
say "building $image on $BASE"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
docker build --network=none --build-arg "BASE=$BASE" -t "$image" trieline/sandbox_images/python >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    say "docker build failed"
    exit 1
}
trieline/sandbox_images/python/smoke_test.sh "$image"
say "made $image"
