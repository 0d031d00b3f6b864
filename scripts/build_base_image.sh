#!/usr/bin/env bash
# Makes the image trieline/base:1 from Debian packages, for machines that reach no image registry.
# Needs root, a running Docker Engine and debootstrap (installed with apt if absent). About a minute.
set -euo pipefail

image=${1:-trieline/base:1}
packages=python3,git,patch

say() { printf 'build_base_image: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || fail "debootstrap needs root: run 'sudo scripts/build_base_image.sh'"
if ! command -v debootstrap >/dev/null; then
    command -v apt-get >/dev/null || fail "no debootstrap and no apt-get: install debootstrap, then run this again"
    say "installing debootstrap with apt"
    apt_log=$(mktemp)
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends debootstrap; } \
        >"$apt_log" 2>&1 || { tail -n 20 "$apt_log" >&2; fail "apt could not install debootstrap"; }
    rm -f "$apt_log"
fi

# The mirror that apt is configured with; its release too, so that debootstrap has keyring and script for it.
codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
    awk -v codename="$codename" '$2 == codename && $3 == "main" { print $1; exit }')
codename=${codename:-bookworm}
mirror=${mirror:-http://deb.debian.org/debian}
for scheme in http https; do
    proxy=$(apt-config dump "Acquire::$scheme::Proxy" | sed -n 's/.*"\(.*\)".*/\1/p' | head -n 1)
    [ -z "$proxy" ] || [ "$proxy" = DIRECT ] || export "${scheme}_proxy=$proxy"
done

folder=$(mktemp -d /var/tmp/trieline-base.XXXXXX)
trap 'rm -rf --one-file-system "$folder"' EXIT
say "debootstrap $codename from $mirror"
debootstrap --variant=minbase --include="$packages" "$codename" "$folder/root" "$mirror" >"$folder/log" 2>&1 || {
    tail -n 20 "$folder/log" >&2
    fail "debootstrap failed"
}
rm -rf "$folder"/root/var/cache/apt/* "$folder"/root/var/lib/apt/lists/* "$folder"/root/usr/share/doc/*
tar -C "$folder/root" --numeric-owner -c . | docker import --change 'LABEL trieline.image=base' - "$image" >/dev/null
say "made $image"
