#!/usr/bin/env bash
# Runs a command with a Docker Engine and the sandbox image ready: scripts/with_docker.sh make test
#
# An engine that already answers is used as it is. Otherwise, as root, Docker Engine is installed (Debian, Ubuntu),
# started without touching bridge or firewall (sandboxes have no network), and stopped again when the last command
# that uses it has ended. Its exit status is that of the command.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

start_seconds=60
stop_seconds=30
run=/run/trieline-docker

say() { printf 'with_docker: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[ $# -gt 0 ] || fail "expected a command to run, got none"

answers() { command -v docker >/dev/null && timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }
engine_pid() { cat "$run/dockerd.pid" 2>/dev/null || true; }

install_engine() {
    command -v apt-get >/dev/null || fail "no Docker Engine and no apt-get: install Docker Engine, then run this again"
    say "installing Docker Engine with apt"
    apt-get update -q >"$run/apt.log" 2>&1 &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker.io >>"$run/apt.log" 2>&1 || {
        tail -n 20 "$run/apt.log" >&2
        fail "apt could not install docker.io"
    }
}

start_engine() {
    command -v dockerd >/dev/null && command -v docker >/dev/null || install_engine
    stop_engine # one that was started here, and is on its way out or stuck
    say "starting dockerd (log: $run/dockerd.log)"
    rm -f "$run/docker-engine.pid"
    # 9>&-: the engine outlives this command's hold on the lock.
    setsid dockerd --pidfile "$run/docker-engine.pid" --bridge=none --iptables=false --ip6tables=false \
        >"$run/dockerd.log" 2>&1 </dev/null 9>&- &
    echo $! >"$run/dockerd.pid"
    local deadline=$((SECONDS + start_seconds))
    until answers; do
        alive "$(engine_pid)" || { tail -n 20 "$run/dockerd.log" >&2; fail "dockerd ended while starting"; }
        [ $SECONDS -lt $deadline ] || { stop_engine; fail "dockerd did not answer within $start_seconds s: $run/dockerd.log"; }
        sleep 0.3
    done
}

stop_engine() {
    local pid deadline=$((SECONDS + stop_seconds))
    pid=$(engine_pid)
    rm -f "$run/dockerd.pid"
    alive "$pid" || return 0
    kill "$pid" 2>/dev/null || return 0
    while alive "$pid"; do
        [ $SECONDS -lt $deadline ] || { say "dockerd (pid $pid) did not stop within $stop_seconds s"; return 0; }
        sleep 0.2
    done
}

# Several commands may run at once: the engine that was started here stops with the last of them.
others_use_it() {
    local user
    for user in "$run"/users/*; do
        [ -e "$user" ] || continue
        if alive "${user##*/}"; then return 0; fi
        rm -f "$user"
    done
    return 1
}

leave() {
    exec 9>"$run/lock"
    flock -w 120 9 || return 0
    rm -f "$run/users/$$"
    others_use_it || stop_engine
}

if [ "$(id -u)" = 0 ] && [ -z "${DOCKER_HOST:-}" ]; then
    mkdir -p "$run/users"
    exec 9>"$run/lock"
    flock -w 600 9 || fail "another with_docker.sh has held $run/lock for 600 s"
    touch "$run/users/$$"
    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    answers || start_engine
    "$here/build_sandbox_image.sh"
    exec 9>&-
else
    answers || fail "no Docker Engine answers and this is not root: start one, or run 'sudo scripts/with_docker.sh ...'"
    "$here/build_sandbox_image.sh"
fi

# With this, a Docker test that finds no engine fails instead of being skipped.
export TRIELINE_WITH_DOCKER=1
status=0
"$@" || status=$?
exit $status
