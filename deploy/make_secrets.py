"""Make the stack's secrets, one file each, for compose and for the local Kubernetes overlay.

    python deploy/make_secrets.py FOLDER

A file that exists is kept: run it again after an upgrade and only new secrets are added. The folder is private (0700);
files in it are readable (0644) because a container's user, who is another one, reads them through a mount.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path


def random_key() -> str:
    """A password that needs no quoting in URLs, INI files or shells."""
    return secrets.token_hex(24)


def credentials(access_key: str, secret_key: str) -> str:
    """An AWS credentials file."""
    return f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"


def main(folder: Path) -> None:
    """Write what is missing in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)

    def keep(name: str, make: Callable[[], str]) -> str:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text(make())
            partial.chmod(0o644)
            partial.rename(path)
        return path.read_text().strip()

    keep("postgres/postgres-password", random_key)
    airflow = keep("postgres/airflow-password", random_key)
    mlflow = keep("postgres/mlflow-password", random_key)

    keep("airflow/fernet-key", lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    keep("airflow/api-secret-key", random_key)
    keep("airflow/jwt-secret", lambda: secrets.token_hex(64))
    keep("airflow/passwords.json", lambda: json.dumps({"admin": random_key()}))
    keep("airflow/sql-alchemy-conn", lambda: f"postgresql+psycopg2://airflow:{airflow}@postgres:5432/airflow")

    admin = keep("mlflow-admin/password", random_key)
    keep("mlflow-pipeline/password", random_key)
    keep("mlflow-detector/password", random_key)
    keep("grafana/password", random_key)
    client = keep("detector-client/key", random_key)
    keep("detector-keys/keys", lambda: f"pipeline {hashlib.sha256(client.encode()).hexdigest()}\n")
    keep("mlflow-server/flask-secret-key", random_key)
    keep("mlflow-server/backend-store-uri", lambda: f"postgresql+psycopg2://mlflow:{mlflow}@postgres:5432/mlflow")
    keep(
        "mlflow-server/auth.ini",
        lambda: (
            "[mlflow]\n"
            "default_permission = READ\n"
            f"database_uri = postgresql+psycopg2://mlflow:{mlflow}@postgres:5432/mlflow_users\n"
            "admin_username = admin\n"
            f"admin_password = {admin}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        ),
    )

    users = {"admin": ["Admin"]} | {
        bucket: [f"{action}:{bucket}" for action in ("Read", "Write", "List", "Tagging")]
        for bucket in ("cifake", "mlflow")
    }
    folders = {"admin": "object-store", "cifake": "cifake-store", "mlflow": "mlflow-server"}
    identities = []
    for user, actions in users.items():
        key = keep(f"{folders[user]}/s3-secret-key", random_key)
        keep(f"{folders[user]}/aws-credentials", lambda user=user, key=key: credentials(user, key))  # type: ignore[misc]
        identities.append({"name": user, "credentials": [{"accessKey": user, "secretKey": key}], "actions": actions})
    keep("object-store/s3.json", lambda: json.dumps({"identities": identities}, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python deploy/make_secrets.py FOLDER")
    main(Path(sys.argv[1]))
