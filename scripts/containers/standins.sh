#!/bin/bash
# standins.sh [NAME…]: build stand-ins for the public images compose.yaml names, under those very names, where no registry
# is reachable. There is none for Grafana.
set -euo pipefail
cd "$(dirname "$0")/../.."
TOOL=${CONTAINER_TOOL:-podman}
BASE_IMAGE=${BASE_IMAGE:-localhost/cifake/base:bookworm}
BUILD_CA=${BUILD_CA-${SSL_CERT_FILE:-}}
options=(--format docker --layers --quiet --build-arg "BASE_IMAGE=$BASE_IMAGE")
[ ! -f "$BUILD_CA" ] || options+=(--secret "id=ca,src=$BUILD_CA")

for image in $(sed -n 's/.*image: ${[A-Z]*_IMAGE:-\(.*\)}/\1/p' deploy/compose.yaml); do
  name=$(basename "${image%:*}")
  file=scripts/containers/standins/$name.Containerfile
  { [ -f "$file" ] && [[ " ${*:-$name} " == *" $name "* ]]; } || continue
  "$TOOL" build "${options[@]}" -f "$file" -t "$image" scripts/containers/standins >/dev/null
  echo "$image"
done
