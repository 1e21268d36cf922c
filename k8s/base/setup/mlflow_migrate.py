"""Bring MLflow's database to the schema of the MLflow installed here: create it, upgrade it, or find it current.

With --wait: only wait, until another process has done so.
"""

import os
import sys
import time

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config, _initialize_tables, _upgrade_db, create_sqlalchemy_engine
from sqlalchemy import inspect
from sqlalchemy.exc import OperationalError

DEADLINE_SECONDS = 300


def state(engine, uri):
    """`absent`, `old` or `current`."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("experiments"):
            return "absent"
        here = MigrationContext.configure(connection).get_current_revision()
    return "current" if here == ScriptDirectory.from_config(_get_alembic_config(uri)).get_current_head() else "old"


def main():
    """Exit 0 once the schema is current, 1 when it is not in time."""
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    engine = create_sqlalchemy_engine(uri)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            found = state(engine, uri)
        except OperationalError as exc:
            print(f"waiting for the database: {str(exc).splitlines()[0]}", flush=True)
        else:
            print(f"schema: {found}", flush=True)
            if found == "current":
                return 0
            if "--wait" not in sys.argv:
                (_initialize_tables if found == "absent" else _upgrade_db)(engine)
                continue
        time.sleep(2)
    return 1


sys.exit(main())
