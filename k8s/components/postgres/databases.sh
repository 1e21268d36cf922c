#!/bin/sh
# Runs once, on an empty data directory: a role and a database each for Airflow and MLflow, and one for MLflow's users.
set -eu
for owner in airflow mlflow; do
  psql --set ON_ERROR_STOP=1 --quiet --username "$POSTGRES_USER" --dbname postgres \
    --set owner="$owner" --set password="$(cat "/etc/cifake/postgres/$owner-password")" <<'SQL'
CREATE ROLE :"owner" LOGIN PASSWORD :'password';
CREATE DATABASE :"owner" OWNER :"owner" ENCODING 'UTF8' TEMPLATE template0;
REVOKE CONNECT ON DATABASE :"owner" FROM PUBLIC;
SQL
done
psql --set ON_ERROR_STOP=1 --quiet --username "$POSTGRES_USER" --dbname postgres <<'SQL'
CREATE DATABASE mlflow_users OWNER mlflow ENCODING 'UTF8' TEMPLATE template0;
REVOKE CONNECT ON DATABASE mlflow_users FROM PUBLIC;
SQL
