"""A step as a Kubernetes pod: what `CIFAKE_RUNTIME=kubernetes` makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import ApiClient
from steps import CHECK_FAILED, WRONGLY_CALLED


class StepPod(KubernetesPodOperator):
    """Runs a step in a pod made from the PodTemplate `step-<image>` of its namespace.

    The template holds image, resources, volumes and everything else a cluster's owner may want to change; the operator
    adds the command. The pod writes its result to the object store, so nothing is read out of the pod, and a task that
    waits holds no worker: the triggerer watches the pod.

    Args:
        image_name: which image, and so which template.
        arguments: the verb (templated).
        result_url: where the step writes its result (templated).
        conclude: turns exit code, last line and result URL into the result.
    """

    template_fields = (*KubernetesPodOperator.template_fields, "result_url")

    def __init__(self, *, image_name: str, result_url: str, conclude: Callable[..., Any], **operator: Any) -> None:
        operator.setdefault("deferrable", True)
        super().__init__(log_events_on_failure=True, log_pod_spec_on_failure=False, **operator)
        self.template = f"step-{image_name}"
        self.result_url = result_url
        self.conclude = conclude

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> Any:
        """The cluster's template with the step's command."""
        if not dry_run:
            namespace = self.namespace or self.hook.get_namespace() or self._incluster_namespace or "default"
            template = self.client.read_namespaced_pod_template(self.template, namespace).template
            plain = ApiClient().sanitize_for_serialization(template)
            self.pod_template_dict = {"apiVersion": "v1", "kind": "Pod", **plain}
        self.arguments = ["cifake", *map(str, self.arguments), "--result", self.result_url]
        return super().build_pod_request_obj(context, dry_run=dry_run)

    def execute(self, context: Context) -> None:
        """Start the pod; wait for it in the triggerer, or here when not deferrable."""
        super().execute(context)
        self._deliver(context)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> None:
        """The pod has ended: its log, its removal, its result."""
        super().trigger_reentry(context, event)
        self._deliver(context)

    def _deliver(self, context: Context) -> None:
        # `do_xcom_push` would add a sidecar to the pod, so the result is pushed by hand.
        self._push_xcom_with_fan_out(context["ti"], self.conclude(0, "", self.result_url))

    def cleanup(self, pod: Any, remote_pod: Any, *args: Any, **kwargs: Any) -> None:
        """Remove the pod; a step that said no, or was called wrongly, is not tried again."""
        try:
            super().cleanup(pod, remote_pod, *args, **kwargs)
        except AirflowException as exc:
            statuses = (remote_pod.status.container_statuses if remote_pod and remote_pod.status else None) or []
            codes = [s.state.terminated.exit_code for s in statuses if s.state and s.state.terminated]
            if codes and codes[0] in (CHECK_FAILED, WRONGLY_CALLED):
                raise AirflowFailException(f"{self.task_id} exited with {codes[0]}; see its log") from exc
            raise
