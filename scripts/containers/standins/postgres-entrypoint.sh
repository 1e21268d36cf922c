#!/bin/sh
# The part of the official image's entry point this project uses: POSTGRES_USER, POSTGRES_PASSWORD_FILE, init scripts.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-host=scram-sha-256 --auth-local=trust >/dev/null
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl --silent --wait start --options="-c listen_addresses=''"
  for script in /docker-entrypoint-initdb.d/*.sh; do
    [ -e "$script" ] || continue
    echo "running $script"; . "$script"
  done
  pg_ctl --silent --wait --mode=fast stop
fi
exec "$@" -c listen_addresses='*'
