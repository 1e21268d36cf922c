#!/bin/sh
# install.sh dependencies LOCK: what locks/LOCK.txt names, by hash, into /opt/venv, and an SBOM of it into /opt/sbom.
# install.sh project:           the project itself into /opt/app, so that a new version is a small layer.
# Runs in build stages only. A secret named `ca` is trusted, and a folder mounted at /wheels is searched, where given.
set -eu
if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi
if [ -d /wheels ]; then export PIP_FIND_LINKS=/wheels; fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_DEFAULT_TIMEOUT=120

case $1 in
  dependencies)
    python3 -m venv --without-pip /opt/venv
    python3 -m venv /opt/build
    /opt/build/bin/pip install --quiet --require-hashes -r locks/build.txt
    /opt/build/bin/pip --python /opt/venv/bin/python install --quiet --no-deps --require-hashes -r "locks/$2.txt"
    if [ -n "${EXTRA_REQUIREMENTS:-}" ]; then
      sed -n 's/^\([^ #]*==[^ ]*\).*\\$/\1/p' "locks/$2.txt" >/tmp/constraints.txt
      # shellcheck disable=SC2086 # a list
      /opt/build/bin/pip --python /opt/venv/bin/python install --quiet -c /tmp/constraints.txt $EXTRA_REQUIREMENTS
    fi
    mkdir -p /opt/sbom
    /opt/build/bin/cyclonedx-py environment --output-reproducible --of JSON -o /opt/sbom/python.cdx.json /opt/venv/bin/python
    ;;
  project)
    /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation -w /tmp/wheel .
    /opt/build/bin/pip --python /opt/venv/bin/python install --quiet --no-deps --no-index --prefix /opt/app /tmp/wheel/*.whl
    ;;
esac
