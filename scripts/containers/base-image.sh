#!/bin/bash
# A stand-in for docker.io/library/python:3.11-slim-bookworm, made from Debian's own packages where no registry is reachable.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
IMAGE=${1:-localhost/cifake/base:bookworm}
PODMAN=${CIFAKE_CONTAINER_TOOL:-$HERE/podman}
: "${CIFAKE_CONTAINER_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/cifake/containers}"; export CIFAKE_CONTAINER_CACHE

$PODMAN image exists "$IMAGE" && exit 0
mkdir -p "$CIFAKE_CONTAINER_CACHE"
tar=$CIFAKE_CONTAINER_CACHE/base.tar
if [ ! -f "$tar" ]; then
  "$HERE/mmdebstrap.sh" --include=ca-certificates,python3-minimal,python3-venv,python3-pip,netbase bookworm "$tar.partial"
  mv "$tar.partial" "$tar"
fi
$PODMAN import --change 'CMD ["python3"]' "$tar" "$IMAGE" >/dev/null
