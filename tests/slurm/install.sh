#!/usr/bin/env bash
# Install what `make slurm` needs on Debian and Ubuntu, where it is missing: four packages, some seconds.
set -euo pipefail

packages="munge slurmctld slurmd slurm-client"
missing=""
for package in $packages; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
if [ -z "$missing" ]; then
    exit
fi
if [ "$(id -u)" = 0 ]; then
    become=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    become="sudo -n"
else
    echo "install.sh: the tests with Slurm need root or sudo once, to install:$missing" >&2
    exit 1
fi
$become apt-get update -qq
# not slurm-wlm with its recommendations: 8 packages in place of 43. Nothing is started that was not running.
# shellcheck disable=SC2086
$become env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
