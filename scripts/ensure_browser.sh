#!/usr/bin/env bash
# Makes sure that the tests of `trieline view` have a browser: Chromium, installed with apt as root. Never fails: what
# needs a browser says itself that there is none.
set -euo pipefail

say() { printf 'ensure_browser: %s\n' "$*" >&2; }

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then
        exit 0
    fi
done
command="apt-get install -y --no-install-recommends chromium"
if ! command -v apt-get >/dev/null; then
    say "no browser for the tests of trieline view: install Chromium with your package manager"
elif [ "$(id -u)" != 0 ]; then
    say "no browser for the tests of trieline view: run 'sudo $command'"
else
    say "installing Chromium with apt"
    log=$(mktemp)
    if apt-get update -q >"$log" 2>&1 && DEBIAN_FRONTEND=noninteractive $command -q >>"$log" 2>&1; then
        rm -f "$log"
    else
        tail -n 20 "$log" >&2
        say "apt could not install Chromium (log: $log)"
    fi
fi
