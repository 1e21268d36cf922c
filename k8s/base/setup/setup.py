"""Make what the stack expects to find: the store's buckets (when S3_BUCKETS names any) and MLflow's users.

MLFLOW_USERS is a list of `name=file`, each file holding the user's password. Safe to run again: what exists stays,
and a user whose password file changed gets the new password.
"""

import os
import sys
import time
from pathlib import Path

import boto3
import requests
from botocore.exceptions import BotoCoreError, ClientError

DEADLINE_SECONDS = 300


def make_buckets(names):
    """Create the buckets that are missing."""
    s3 = boto3.client("s3")
    have = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in names:
        if name not in have:
            s3.create_bucket(Bucket=name)
            print(f"bucket {name}: created", flush=True)


def make_users(url, users):
    """Create MLflow's users, or set their passwords."""
    session = requests.Session()
    session.auth = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
    for name, password in users.items():
        body = {"username": name, "password": password}
        found = session.get(f"{url}/api/2.0/mlflow/users/get", params={"username": name}, timeout=30)
        if found.status_code == 404:
            session.post(f"{url}/api/2.0/mlflow/users/create", json=body, timeout=30).raise_for_status()
            print(f"MLflow user {name}: created", flush=True)
        else:
            found.raise_for_status()
            session.patch(f"{url}/api/2.0/mlflow/users/update-password", json=body, timeout=30).raise_for_status()


def main():
    """Exit 0 when everything is there, 1 when a server did not answer in time."""
    buckets = os.environ.get("S3_BUCKETS", "").split()
    users = dict(pair.split("=", 1) for pair in os.environ.get("MLFLOW_USERS", "").split())
    passwords = {name: Path(file).read_text().strip() for name, file in users.items()}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            if buckets:
                make_buckets(buckets)
            if passwords:
                make_users(os.environ["MLFLOW_TRACKING_URI"], passwords)
        except (BotoCoreError, ClientError, requests.RequestException) as exc:
            if time.monotonic() > deadline:
                print(f"setup: gave up: {exc}", file=sys.stderr)
                return 1
            print(f"waiting: {exc}", flush=True)
            time.sleep(2)
        else:
            return 0


sys.exit(main())
