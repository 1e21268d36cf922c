"""A step as a container of the Docker (or podman) daemon: the operator behind `CIFAKE_RUNTIME=docker`."""

from __future__ import annotations

import functools
import os
import re
from typing import Any

from airflow.providers.docker.exceptions import DockerContainerFailedException
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException
from docker.types import DeviceRequest, Mount

from cifake_core.settings import settings
from dags.results import FINAL_EXIT_CODES, read

# Paths and choices of this process that mean nothing in the step's container.
NOT_PASSED = {"CIFAKE_HOME", "CIFAKE_RUNTIME", "AWS_SHARED_CREDENTIALS_FILE"}


def environment() -> dict[str, str]:
    """Settings and credentials a step needs, from this process's own."""
    prefixes = ("CIFAKE_", "MLFLOW_", "AWS_")
    names = {n for n in os.environ if n.startswith(prefixes) and not n.endswith("_FROM_FILE")} - NOT_PASSED
    return {name: os.environ[name] for name in sorted(names)}


class StepContainer(DockerOperator):
    """Runs a step in a container and returns the step's result.

    With a store and a registry reached over the network nothing of the host is mounted. With files (one machine, no
    servers) CIFAKE_HOME is, at its own path, and the container runs as the user who runs Airflow.

    Args:
        image: the image.
        arguments: the command (templated).
        result_url: where the step writes its result (templated).
        network: the network the store and MLflow are on; the daemon's default when none is given.
        gpu: ask for one device.
    """

    template_fields = (*DockerOperator.template_fields, "result_url")

    def __init__(
        self,
        *,
        image: str,
        arguments: list[str],
        result_url: str,
        network: str | None = None,
        gpu: bool = False,
        **kwargs: Any,
    ) -> None:
        config = settings()
        variables, mounts, user = environment(), [], None
        if config.store.startswith("file:") or config.tracking_uri.startswith("sqlite:"):
            config.home.mkdir(parents=True, exist_ok=True)
            mounts.append(Mount(str(config.home), str(config.home), "bind"))
            variables["CIFAKE_HOME"] = variables["HOME"] = str(config.home)
            user = f"{os.getuid()}:{os.getgid()}"
        if config.data and config.data.startswith("/"):
            mounts.append(Mount(config.data, config.data, "bind", read_only=True))
        super().__init__(
            image=image,
            command=arguments,
            private_environment=variables,
            mounts=mounts,
            user=user,
            network_mode=network,
            device_requests=[DeviceRequest(count=1, capabilities=[["gpu"]])] if gpu else None,
            mount_tmp_dir=False,
            auto_remove="force",
            **kwargs,
        )
        self.result_url = result_url

    def execute(self, context: Context) -> Any:
        """Run the container to its end.

        Raises:
            AirflowFailException: the step said no, or was called wrongly; it is not tried again.
        """
        client = self.cli
        client.create_host_config = functools.partial(
            client.create_host_config, cap_drop=["ALL"], security_opt=["no-new-privileges"]
        )
        try:
            super().execute(context)
        except DockerContainerFailedException as exc:
            # The operator has removed the container by now and says the code only in its message.
            found = re.search(r"'StatusCode': (\d+)", str(exc))
            if found and int(found[1]) in FINAL_EXIT_CODES:
                raise AirflowFailException(f"{self.task_id} exited {found[1]}; see its log") from exc
            raise
        return read(self.result_url)
