#!/usr/bin/env bash
# What hack/demo shows of the microVM: here where KVM runs guests, else in the lab.
set -eu
bulkhead=${BULKHEAD:-target/release/bulkhead}
settings=$(mktemp)
trap 'rm -f "$settings"' EXIT
echo "guest_image = \"$PWD/target/guest\"" > "$settings"
echo "the host:  Linux $(uname -r), $(nproc) processors"
"$bulkhead" --config "$settings" --isolation microvm do -- /bin/sh -c \
    'echo "the guest: Linux $(uname -r), $(nproc) processors; PID 1 of the container is $(cat /proc/1/comm)"; head -n 3 /proc/meminfo'
