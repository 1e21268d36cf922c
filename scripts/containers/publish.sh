#!/bin/bash
# publish.sh REGISTRY/PATH: push the images build.sh made, and pin their digests in the production overlay.
#
#   CONTAINER_TOOL, IMAGES, TAG  as in build.sh
#   PUSH_OPTIONS                 more of the tool's own options, such as --tls-verify=false
set -euo pipefail
cd "$(dirname "$0")/../.."
TOOL=${CONTAINER_TOOL:-podman}
IMAGES=${IMAGES:-localhost/cifake}
TAG=${TAG:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
TO=${1:?usage: publish.sh REGISTRY/PATH}
file=k8s/overlays/production/images/kustomization.yaml

partial=$(mktemp "$file.XXXXXX")
trap 'rm -f "$partial"' EXIT
printf '%s\n' 'apiVersion: kustomize.config.k8s.io/v1alpha1' 'kind: Component' 'images:' >"$partial"
for role in generate mlflow orchestrate serve train; do
  "$TOOL" tag "$IMAGES/$role:$TAG" "$TO/$role:$TAG"
  # shellcheck disable=SC2086 # PUSH_OPTIONS is a list
  "$TOOL" push ${PUSH_OPTIONS:-} "$TO/$role:$TAG"
  digest=$("$TOOL" image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$TO/$role:$TAG" |
    sed -n "s|^$TO/$role@||p" | tail -1)
  [ -n "$digest" ] || { echo "publish.sh: $TOOL does not say the digest of $TO/$role:$TAG" >&2; exit 1; }
  printf '  - {name: cifake/%s, newName: %s/%s, digest: %s}\n' "$role" "$TO" "$role" "$digest" >>"$partial"
done
chmod 644 "$partial"
mv "$partial" "$file"
