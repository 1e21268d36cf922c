"""The one place that turns a verb into a task: `step("train", "train", …)` runs `cifake train …`.

Where it runs is CIFAKE_RUNTIME's to say; a DAG cannot tell the difference. A step's JSON result goes to the object
store under `results/` and from there, small as it is, to XCom: key by key, so that `task.output["dataset_version"]`
is what a later step is given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from cifake_core.errors import ConfigurationError
from cifake_core.settings import CHECKOUT, settings

CHECK_FAILED = 1  # a verb's exit code when a gate or a validation said no: trying again would say no again
WRONGLY_CALLED = 2  # or a setting or the data are wrong: that does not pass either
# A restarted MLflow is back by then.
RETRIES = {"retries": 3, "retry_delay": timedelta(seconds=20)}

# A run id may hold any character; an object's name had better not.
_RUN = "{{ dag.dag_id }}/{{ run_id | replace(':', '-') | replace('+', '-') }}"
_TASK = "{{ ti.task_id }}{{ '' if ti.map_index < 0 else '-%d' % ti.map_index }}"
RESULT = f"results/{_RUN}/{_TASK}.json"


def step(task_id: str, *arguments: Any, **operator: Any) -> BaseOperator:
    """A task that runs `cifake ARGUMENTS…`.

    Args:
        arguments: templates, or other steps' `output[key]`, which also orders the two.
        operator: whatever else Airflow's operators take.

    Raises:
        ConfigurationError: CIFAKE_RUNTIME names a runtime that this installation has not got.
    """
    kind, settled = _operator(task_id, arguments[0], operator)
    return kind(arguments=list(arguments), **settled)


def mapped_step(task_id: str, verb: str, commands: Any, **operator: Any) -> Any:
    """Tasks as `step` makes them, one for each of `commands`: a task's output, a list of lists of VERB's arguments.

    Raises:
        ConfigurationError: as `step`.
    """
    kind, settled = _operator(task_id, verb, operator)
    return kind.partial(**settled).expand(arguments=commands)


def _operator(task_id: str, verb: str, more: dict[str, Any]) -> tuple[type[BaseOperator], dict[str, Any]]:
    """The runtime's operator, and all it is given but the arguments."""
    runtime = settings().runtime
    if runtime not in RUNTIMES:
        raise ConfigurationError(f"CIFAKE_RUNTIME={runtime}: steps run in {', '.join(RUNTIMES)} only")
    kind, its_own = RUNTIMES[runtime](task_id, verb)
    common = {"task_id": task_id, "result_url": f"{settings().store}/{RESULT}", "multiple_outputs": True}
    return kind, {**common, **its_own, **RETRIES, **more}


class LocalStep(BaseOperator):
    """A verb as a process of the ML environment, on the machine that runs the task. No shell."""

    template_fields: Sequence[str] = ("arguments", "result_url")

    def __init__(self, *, arguments: list[Any], result_url: str, **operator: Any) -> None:
        super().__init__(**operator)
        self.arguments = arguments
        self.result_url = result_url
        self.hook = SubprocessHook()

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the verb; its result."""
        program = CHECKOUT / ".venv" / "bin" / "cifake" if CHECKOUT else "cifake"
        command = [str(program), *map(str, self.arguments), "--result", self.result_url]
        settings().home.mkdir(parents=True, exist_ok=True)
        done = self.hook.run_command(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, cwd=str(settings().home))
        return conclude(done.exit_code, done.output, self.result_url)

    def on_kill(self) -> None:
        """Stop the verb with the task."""
        self.hook.send_sigterm()


def conclude(exit_code: int, last_line: str, result_url: str) -> dict[str, Any]:
    """What a finished verb means for its task: its result, or the exception that fails it."""
    from cifake_core.storage import Store

    folder, _, name = result_url.rpartition("/")
    store = Store(folder)
    if exit_code == WRONGLY_CALLED:
        raise AirflowFailException(f"exit code {exit_code}: {last_line}")
    # A Python that cannot even start exits with 1 too, but leaves no result.
    if exit_code not in (0, CHECK_FAILED) or not store.exists(name):
        raise AirflowException(f"exit code {exit_code}: {last_line}")
    result: dict[str, Any] = json.loads(store.read(name))
    if exit_code == CHECK_FAILED:
        report = f"; report: {result['report_url']}" if result.get("report_url") else ""
        raise AirflowFailException(f"{last_line}{report}")
    return result


def image_of(verb: str) -> str:
    """The image that holds a verb: torch is only where images are generated."""
    return "generate" if verb == "generate" else "train"


def local_step(task_id: str, verb: str) -> tuple[type[BaseOperator], dict[str, Any]]:
    """A verb as a process."""
    return LocalStep, {}


def docker_step(task_id: str, verb: str) -> tuple[type[BaseOperator], dict[str, Any]]:
    """A verb as a container."""
    from containers import StepContainer

    return StepContainer, {"image_name": image_of(verb), "conclude": conclude}


def kubernetes_step(task_id: str, verb: str) -> tuple[type[BaseOperator], dict[str, Any]]:
    """A verb as a pod."""
    from pods import StepPod

    return StepPod, {"name": task_id, "image_name": image_of(verb), "conclude": conclude}


RUNTIMES: dict[str, Callable[[str, str], tuple[type[BaseOperator], dict[str, Any]]]] = {
    "local": local_step,
    "docker": docker_step,
    "kubernetes": kubernetes_step,
}
