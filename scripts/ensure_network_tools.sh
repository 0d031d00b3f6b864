#!/usr/bin/env bash
# Makes sure that tests can make networks of hosts: `ip` and `unshare`, installed with apt as root. Never fails: the
# tests say themselves what is missing.
set -euo pipefail

say() { printf 'ensure_network_tools: %s\n' "$*" >&2; }

if command -v ip >/dev/null && command -v unshare >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    say "no ip or no unshare: install iproute2 and util-linux"
    exit 0
fi
say "installing iproute2 and util-linux with apt"
log=$(mktemp)
if apt-get update -q >"$log" 2>&1 &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -q iproute2 util-linux >>"$log" 2>&1; then
    rm -f "$log"
else
    tail -n 20 "$log" >&2
    say "apt could not install them (log: $log)"
fi
