"""What a step that ran elsewhere left behind: its result, by URL in the object store."""

from __future__ import annotations

import json
from typing import Any

from cifake_core.storage import Store

# 1: a check said no; 2: usage or configuration. Trying again changes neither.
FINAL_EXIT_CODES = frozenset({1, 2})


def read(url: str) -> Any:
    """The JSON object a verb wrote with `--result URL`.

    Raises:
        StoreError: there is none, or the store does not answer.
    """
    folder, _, name = url.rpartition("/")
    return json.loads(Store(folder).read(name))
