"""A step as a Kubernetes pod: the operator behind `CIFAKE_RUNTIME=kubernetes`."""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import ApiClient

from dags.results import FINAL_EXIT_CODES, read


class StepPod(KubernetesPodOperator):
    """Runs a step in a pod made from the PodTemplate `step-<image>` of its namespace, and returns the step's result.

    The template holds image, resources, volumes and everything else a cluster's owner may want to change; the operator
    adds the command. The pod writes its result to the object store, so nothing is read out of the pod, and a task that
    waits holds no worker: the triggerer watches the pod.

    Args:
        template: name of the PodTemplate.
        result_url: where the step writes its result (templated).
    """

    template_fields = (*KubernetesPodOperator.template_fields, "template", "result_url")

    def __init__(self, *, template: str, result_url: str, **kwargs: Any) -> None:
        kwargs.setdefault("deferrable", True)
        super().__init__(log_events_on_failure=True, log_pod_spec_on_failure=False, **kwargs)
        self.template = template
        self.result_url = result_url

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> Any:
        """The template of the cluster, with the step's command."""
        if not dry_run:
            namespace = self.namespace or self.hook.get_namespace() or self._incluster_namespace or "default"
            template = self.client.read_namespaced_pod_template(self.template, namespace).template
            self.pod_template_dict = {
                "apiVersion": "v1",
                "kind": "Pod",
                **ApiClient().sanitize_for_serialization(template),
            }
        return super().build_pod_request_obj(context, dry_run=dry_run)

    def execute(self, context: Context) -> None:
        """Start the pod; wait for it in the triggerer, or here when not deferrable."""
        super().execute(context)
        self._deliver(context)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> None:
        """The pod has ended: its logs, its clean-up, its result."""
        super().trigger_reentry(context, event)
        self._deliver(context)

    def _deliver(self, context: Context) -> None:
        # `do_xcom_push` would add a sidecar to the pod, so the result is pushed by hand.
        context["ti"].xcom_push("return_value", read(self.result_url))

    def cleanup(self, pod: Any, remote_pod: Any, *args: Any, **kwargs: Any) -> None:
        """Remove the pod; a step that said no, or was called wrongly, is not tried again."""
        try:
            super().cleanup(pod, remote_pod, *args, **kwargs)
        except AirflowException as exc:
            statuses = (remote_pod.status.container_statuses if remote_pod and remote_pod.status else None) or []
            ended = [s.state.terminated for s in statuses if s.name == self.base_container_name and s.state]
            if ended and ended[0] and ended[0].exit_code in FINAL_EXIT_CODES:
                raise AirflowFailException(f"{self.task_id} exited {ended[0].exit_code}; see its log") from exc
            raise
