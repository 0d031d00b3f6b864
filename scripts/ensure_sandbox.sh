#!/usr/bin/env bash
# Makes sure that untrusted programs can run in a sandbox: Docker if an engine answers, for which it builds the image,
# else bubblewrap, which is installed with apt as root. Never fails: what needs a sandbox says itself that there is none.
# With --even-with-docker (for the tests of both), Docker is not taken into account.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

say() { printf 'ensure_sandbox: %s\n' "$*" >&2; }

docker_is_ready() {
    command -v docker >/dev/null && timeout 10 docker version >/dev/null 2>&1 || return 1
    "$here/build_sandbox_image.sh" || { say "no image for the Docker sandbox (see above)"; return 1; }
}

if [ "${1:-}" != --even-with-docker ] && docker_is_ready; then
    exit 0
fi
if command -v bwrap >/dev/null; then
    exit 0
fi
command="apt-get install -y --no-install-recommends bubblewrap"
if ! command -v apt-get >/dev/null; then
    say "no sandbox for the code environment: install bubblewrap with your package manager"
elif [ "$(id -u)" != 0 ]; then
    say "no sandbox for the code environment: run 'sudo $command'"
else
    say "installing bubblewrap with apt"
    log=$(mktemp)
    if apt-get update -q >"$log" 2>&1 && DEBIAN_FRONTEND=noninteractive $command -q >>"$log" 2>&1; then
        rm -f "$log"
    else
        tail -n 20 "$log" >&2
        say "apt could not install bubblewrap (log: $log)"
    fi
fi
