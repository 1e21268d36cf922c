#!/bin/bash
# backup.sh backup|restore FOLDER: all that a running stack must not lose. Secrets are not in it: keep them elsewhere.
#
#   TARGET   compose (default) or kubernetes
#   COMPOSE  how compose is called; KUBECTL  how kubectl is called
#
# Both may be in use meanwhile: databases are dumped before objects, and an object that a database names stays as it is.
# Others (shards being drawn, reports, results of steps) are saved as found, and left out when they are gone by then.
# A restore stops what uses the databases, replaces them, and starts it again; it first checks the whole backup, and is
# safe to run again when it was interrupted.
set -euo pipefail
umask 077 # dumps hold password hashes and connections
cd "$(dirname "$0")/.."
TARGET=${TARGET:-compose}
COMPOSE=${COMPOSE:-docker compose -f deploy/compose.yaml}
KUBECTL=${KUBECTL:-kubectl --namespace cifake}
DATABASES="airflow mlflow mlflow_users"
SERVICES="airflow-api-server airflow-scheduler airflow-dag-processor airflow-triggerer mlflow"

die() { echo "backup.sh: $*" >&2; exit 2; }

kind_of() { case $1 in postgres|airflow-scheduler|airflow-triggerer) echo statefulset ;; *) echo deployment ;; esac; }

inside() { # service, command…
  local service=$1; shift
  case $TARGET in
    compose) $COMPOSE exec -T "$service" "$@" ;;
    kubernetes) $KUBECTL exec -i "$(kind_of "$service")/$service" -- "$@" ;;
    *) die "TARGET is compose or kubernetes" ;;
  esac
}

# Who holds the credentials of which bucket; the entry point turns files of secrets into the environment.
bucket() { # dump|load, bucket
  local service=mlflow
  [ "$2" = mlflow ] || service=airflow-scheduler
  inside "$service" /usr/local/bin/entrypoint python -c "$(cat deploy/objects.py)" "$1" "$2"
}

users() { # stop|start
  if [ "$TARGET" = compose ]; then
    # shellcheck disable=SC2086 # a list
    $COMPOSE "$1" $SERVICES
    return
  fi
  for service in $SERVICES; do
    $KUBECTL scale "$(kind_of "$service")/$service" --replicas "$([ "$1" = start ] && echo 1 || echo 0)"
    $KUBECTL rollout status --timeout=300s "$(kind_of "$service")/$service"
  done
}

backup() {
  [ ! -e "$1" ] || die "$1 exists; a backup is never written over another"
  rm -rf "$1.partial"; mkdir -p "$1.partial"
  for database in $DATABASES; do
    inside postgres pg_dump --username=postgres --format=custom --create "$database" >"$1.partial/$database.dump"
  done
  bucket dump mlflow >"$1.partial/mlflow.tar"
  bucket dump cifake >"$1.partial/cifake.tar"
  (cd "$1.partial" && sha256sum -- * >SHA256SUMS)
  mv "$1.partial" "$1"
  du -sh "$1" >&2
}

restore() {
  [ -f "$1/SHA256SUMS" ] || die "$1 is no backup"
  (cd "$1" && sha256sum --check --quiet SHA256SUMS) || die "$1 is damaged; nothing was restored"
  bucket load mlflow <"$1/mlflow.tar"
  bucket load cifake <"$1/cifake.tar"
  users stop
  for database in $DATABASES; do
    inside postgres pg_restore --username=postgres --exit-on-error --clean --if-exists --create --dbname=postgres \
      <"$1/$database.dump"
  done
  users start
}

[ $# = 2 ] && [ -n "$2" ] || die "usage: backup.sh backup|restore FOLDER (make: BACKUP=FOLDER)"
case $1 in
  backup | restore) "$1" "$2" ;;
  *) die "usage: backup.sh backup|restore FOLDER" ;;
esac
