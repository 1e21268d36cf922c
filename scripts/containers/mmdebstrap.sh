#!/bin/bash
# mmdebstrap as the host has it or, without installing it, from its package.
set -euo pipefail
tool=mmdebstrap
if ! command -v mmdebstrap >/dev/null; then
  : "${CIFAKE_CONTAINER_CACHE:?}"
  folder=$CIFAKE_CONTAINER_CACHE/mmdebstrap
  tool=$folder/usr/bin/mmdebstrap
  if [ ! -x "$tool" ]; then
    mkdir -p "$folder"
    (cd "$folder" && apt-get -qq download mmdebstrap >/dev/null 2>&1 && dpkg -x mmdebstrap_*.deb .) || {
      echo "no mmdebstrap here and none to download; run 'apt-get update', or set CIFAKE_CONTAINER_TOOL to a podman 5" >&2
      exit 2
    }
  fi
fi
exec "$tool" --quiet --variant=minbase --format="$(case "${*: -1}" in *.tar*) echo tar ;; *) echo directory ;; esac)" \
  --aptopt='Acquire::Retries "3"' "$@"
