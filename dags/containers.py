"""A step as a container of the Docker (or podman) daemon: what `CIFAKE_RUNTIME=docker` makes of it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any

from airflow.providers.docker.exceptions import DockerContainerFailedException
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import Context
from docker.types import Mount

from cifake_core.settings import settings

# Paths and choices of this process that mean nothing in the step's container.
NOT_PASSED = {"CIFAKE_HOME", "CIFAKE_RUNTIME", "AWS_SHARED_CREDENTIALS_FILE"}
HOME = "/var/lib/cifake"  # as the images have it
HARDENED = {
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "read_only": True,
    "tmpfs": {"/tmp": "mode=1777"},
}


def environment() -> dict[str, str]:
    """Settings and credentials a step needs, from this process's own."""
    prefixes = ("CIFAKE_", "MLFLOW_", "AWS_")
    names = {n for n in os.environ if n.startswith(prefixes) and not n.endswith("_FROM_FILE")} - NOT_PASSED
    return {name: os.environ[name] for name in sorted(names)}


class StepContainer(DockerOperator):
    """Runs a step in a container.

    The container has no capabilities and a read-only root; it may write to /tmp and to a volume that goes with it. With
    a store and a registry reached over the network nothing of the host is mounted. With files (one machine, no servers)
    CIFAKE_HOME is, at its own path, and the container runs as the user who runs Airflow.

    Args:
        image_name: which image, of those CIFAKE_IMAGES names.
        arguments: the verb (templated).
        result_url: where the step writes its result (templated).
        conclude: turns exit code, last line and result URL into the result.
    """

    template_fields = (*DockerOperator.template_fields, "result_url")

    def __init__(
        self, *, image_name: str, arguments: list[Any], result_url: str, conclude: Callable[..., Any], **operator: Any
    ) -> None:
        config = settings()
        variables, mounts, user = environment(), [], None
        if config.store.startswith("file:") or config.tracking_uri.startswith("sqlite:"):
            config.home.mkdir(parents=True, exist_ok=True)
            mounts.append(Mount(str(config.home), str(config.home), "bind"))
            variables["CIFAKE_HOME"] = variables["HOME"] = str(config.home)
            user = f"{os.getuid()}:{os.getgid()}"
        else:
            mounts.append(Mount(HOME, None, "volume"))
        if config.data and config.data.startswith("/"):
            mounts.append(Mount(config.data, config.data, "bind", read_only=True))
        super().__init__(
            image=f"{config.images}/{image_name}:{config.image_tag}",
            command=arguments,
            private_environment=variables,
            mounts=mounts,
            user=user,
            network_mode=config.docker_network or None,
            mount_tmp_dir=False,
            auto_remove="force",
            **operator,
        )
        self.result_url = result_url
        self.conclude = conclude

    def execute(self, context: Context) -> Any:
        """Run the container to its end; the verb's result."""
        self.command = ["cifake", *map(str, self.command), "--result", self.result_url]
        client = self.cli
        client.create_host_config = functools.partial(client.create_host_config, **HARDENED)
        client.remove_container = functools.partial(client.remove_container, v=True)
        try:
            super().execute(context)
        except DockerContainerFailedException as exc:
            found = re.search(r"'StatusCode': (\d+)", str(exc))  # the container is gone; its message says the code
            return self.conclude(int(found[1]) if found else -1, str(exc), self.result_url)
        return self.conclude(0, "", self.result_url)
