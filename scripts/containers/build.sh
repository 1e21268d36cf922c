#!/bin/bash
# build.sh ROLE…: build deploy/images/ROLE.Containerfile as $IMAGES/ROLE:$TAG with podman, buildah or docker.
#
#   CONTAINER_TOOL  podman (default), docker, or scripts/containers/podman where the host has neither
#   BASE_IMAGE      what the images stand on; see base-image.sh for where no registry is reachable
#   BUILD_CA        a CA file pip shall trust (an intercepting proxy); default SSL_CERT_FILE
#   WHEELS          a folder of wheels pip shall search (podman and buildah); default PIP_FIND_LINKS
#   BUILD_ARGS      more of the builder's own options, such as --build-arg TORCH_INDEX=…
set -euo pipefail
cd "$(dirname "$0")/../.."
TOOL=${CONTAINER_TOOL:-podman}
IMAGES=${IMAGES:-localhost/cifake}
TAG=${TAG:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
REVISION=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)

options=(--build-arg "VERSION=$TAG" --build-arg "REVISION=$REVISION")
[ -z "${BASE_IMAGE:-}" ] || options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
BUILD_CA=${BUILD_CA-${SSL_CERT_FILE:-}}
WHEELS=${WHEELS-${PIP_FIND_LINKS:-}}
[ ! -f "$BUILD_CA" ] || options+=(--secret "id=ca,src=$BUILD_CA")
[ ! -d "$WHEELS" ] || options+=(--volume "$WHEELS:/wheels:ro")
# The OCI format has no health checks; docker's own builder knows no --format.
case $(basename "$TOOL") in docker) ;; *) options+=(--format docker --layers) ;; esac

for role in "$@"; do
  # shellcheck disable=SC2086 # BUILD_ARGS is a list
  "$TOOL" build "${options[@]}" ${BUILD_ARGS:-} -f "deploy/images/$role.Containerfile" -t "$IMAGES/$role:$TAG" .
done
