#!/bin/sh
# NAME_FROM_FILE=/some/secret becomes NAME=<its contents>; then the command runs. Secrets stay out of specs and images.
set -eu
for name in $(env | sed -n 's/^\([A-Z][A-Z0-9_]*\)_FROM_FILE=.*/\1/p'); do
  eval "file=\$${name}_FROM_FILE"
  [ -r "$file" ] || { echo "entrypoint: ${name}_FROM_FILE: cannot read $file" >&2; exit 2; }
  value=$(cat "$file")
  export "$name=$value"
  unset "${name}_FROM_FILE"
done
exec "$@"
