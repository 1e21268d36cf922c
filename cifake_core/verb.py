"""What all `cifake` verbs share: --json, errors in one line, exit codes, progress bars."""

from __future__ import annotations

import functools
import json
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from pydantic import BaseModel

from cifake_core.errors import CheckFailedError, CifakeError

if TYPE_CHECKING:
    from cifake_core.storage import Store

T = TypeVar("T")
DEFECT = 4  # exit code of what should not happen: Python's own 1 would say that a check said no


def verb(name: str, render: Callable[[Any], str] | None = None, **attributes: Any) -> Callable[..., click.Command]:
    """Make a function a verb: it returns its result (a Pydantic model or a dict) and raises CifakeError.

    Args:
        name: the verb's name.
        render: turns the result into what a person reads; default one `key: value` line each.
    """

    def wrap(function: Callable[..., Any]) -> click.Command:
        @click.command(name, **attributes)
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line of stdout.")
        @click.option(
            "--result",
            "result_url",
            metavar="URL",
            callback=_an_object,
            help="Also write the JSON object to this object-store URL.",
        )
        @functools.wraps(function)
        def command(as_json: bool, result_url: str | None, **options: Any) -> None:
            logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            code = 0
            try:
                kept = _object(result_url) if result_url else None
                if kept:
                    kept[0].delete(kept[1])  # of an earlier try
                try:
                    result = function(**options)
                except CheckFailedError as exc:
                    click.echo(f"cifake {name}: {exc}", err=True)
                    result, code = exc.result, exc.exit_code
                plain = result.model_dump(mode="json") if isinstance(result, BaseModel) else result
                if kept and plain is not None:
                    kept[0].write(kept[1], json.dumps(plain).encode())
            except CifakeError as exc:
                click.echo(f"cifake {name}: {exc}", err=True)
                sys.exit(exc.exit_code)
            except (click.ClickException, click.Abort, click.exceptions.Exit):
                raise
            except Exception:
                traceback.print_exc()
                sys.exit(DEFECT)
            except KeyboardInterrupt:
                click.echo(f"cifake {name}: interrupted; nothing half-done was kept, run it again to go on", err=True)
                sys.exit(130)
            if as_json:
                click.echo(json.dumps(plain))
            elif plain is not None:
                click.echo(render(result) if render else "\n".join(f"{key}: {value}" for key, value in plain.items()))
            sys.exit(code)

        return cast(click.Command, command)

    return wrap


def _an_object(context: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    if url and not url.rpartition("/")[0]:
        raise click.BadParameter(f"{url!r} is no URL of an object, such as file:///tmp/result.json")
    return url


def _object(url: str) -> tuple[Store, str]:
    from cifake_core.storage import Store

    folder, _, name = url.rpartition("/")
    return Store(folder), name


def progress(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterable[T]:
    """A progress bar on a terminal, silence elsewhere."""
    from tqdm import tqdm

    bar = tqdm(items, desc=what, total=total, unit=unit, disable=not sys.stderr.isatty(), leave=False)
    return cast(Iterable[T], bar)
