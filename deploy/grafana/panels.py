"""What the dashboards show: title, unit and queries of each panel. Data; `generate.py` makes Grafana's JSON of it."""

from __future__ import annotations

from typing import NamedTuple


class Panel(NamedTuple):
    """One panel; `queries` are (PromQL, legend). A `stat` shows the latest value, a `series` its course."""

    title: str
    unit: str
    queries: list[tuple[str, str]]
    kind: str = "series"
    about: str = ""


STAGES = "sum by (stage) (rate(cifake_stage_seconds_sum[5m])) / sum by (stage) (rate(cifake_stage_seconds_count[5m]))"
FAITHFULNESS = (
    "sum by (method) (cifake_explanation_faithfulness_sum) / sum by (method) (cifake_explanation_faithfulness_count)"
)

# Dashboard → row → panels.
DASHBOARDS: dict[str, dict[str, list[Panel]]] = {
    "Overview": {
        "Is it healthy": [
            Panel("Replicas up", "none", [('sum(up{job="detector"})', "")], "stat"),
            Panel("Ready", "bool_yes_no", [("min(cifake_ready)", "")], "stat"),
            Panel("Champion served", "bool_yes_no", [("min(cifake_model_is_champion)", "")], "stat"),
            Panel("Registry reachable", "bool_yes_no", [("min(cifake_registry_reachable)", "")], "stat"),
            Panel("Requests", "reqps", [("sum(cifake:requests:rate5m)", "")], "stat"),
            Panel("Failed", "percentunit", [("cifake:request_errors:ratio_rate5m", "")], "stat"),
        ],
        "Which model": [
            Panel("Served version", "none", [("cifake_model_info == 1", "version {{version}}, {{topology}}")], "stat"),
            Panel("Champion's age", "s", [("time() - max(cifake_champion_created_timestamp_seconds)", "")], "stat"),
            Panel("Promoted by the gate", "bool_yes_no", [("min(cifake_champion_gate_evidence)", "")], "stat"),
        ],
        "What does it say": [
            Panel("Verdicts", "percentunit", [("cifake:predictions:share_rate15m", "{{label}}")]),
            Panel(
                "Drift (PSI)", "none", [("max by (feature) (cifake_drift_psi)", "{{feature}}")], about="0.25 alerts."
            ),
            Panel(
                "Accuracy by feedback",
                "percentunit",
                [
                    ("cifake_feedback_accuracy", "version {{model_version}}"),
                    ("cifake_feedback_accuracy_lower", "lower, {{model_version}}"),
                    ("cifake_feedback_accuracy_upper", "upper, {{model_version}}"),
                ],
                about="With its 95 % interval. Not a random sample: only what somebody told.",
            ),
        ],
    },
    "Service": {
        "Rate, errors, duration": [
            Panel("Requests", "reqps", [("cifake:requests:rate5m", "{{route}}")]),
            Panel("By code", "reqps", [("sum by (code) (rate(cifake_requests_total[5m]))", "{{code}}")]),
            Panel("99 % are answered within", "s", [("cifake:request_seconds:p99_5m", "{{route}}")]),
        ],
        "Stages": [
            Panel("Mean time by stage", "s", [(STAGES, "{{stage}}")]),
            Panel("Waiting requests", "none", [("sum(cifake_queue_depth)", "waiting")]),
            Panel(
                "Refused images",
                "reqps",
                [("sum by (reason) (rate(cifake_rejected_images_total[15m]))", "{{reason}}")],
            ),
        ],
        "Budgets": [
            Panel(
                "Errors: share of requests",
                "percentunit",
                [(f"cifake:request_errors:ratio_rate{window}", window) for window in ("5m", "30m", "1h", "6h")],
            ),
            Panel(
                "Over 250 ms: share of classifications",
                "percentunit",
                [(f"cifake:classify_slow:ratio_rate{window}", window) for window in ("5m", "30m", "1h", "6h")],
            ),
            Panel("Model swaps", "none", [("sum by (outcome) (cifake_model_swaps_total)", "{{outcome}}")]),
        ],
    },
    "Models": {
        "Champion against challenger": [
            Panel(
                "Last decisions",
                "dateTimeFromNow",
                [("cifake_gate_decision_timestamp_seconds * 1000", "{{kind}} {{model_version}}")],
                "stat",
            ),
            Panel(
                "Accuracy in the last decision",
                "percentunit",
                [('cifake_gate_accuracy{slice="all"}', "{{role}} {{model_version}}")],
                "stat",
            ),
            Panel("Checks", "bool_yes_no", [("cifake_gate_check_passed", "{{check}}")], "stat"),
        ],
        "On the test split": [
            Panel("Figures", "none", [("cifake_evaluation_score", "{{metric}}")], "stat"),
            Panel("Slices", "percentunit", [("cifake_evaluation_slice_accuracy", "{{slice}}")], "stat"),
            Panel(
                "Slices in the last decision", "percentunit", [("cifake_gate_accuracy", "{{slice}} {{role}}")], "stat"
            ),
        ],
        "Live": [
            Panel(
                "P(REAL)",
                "none",
                [
                    (f"histogram_quantile({q}, sum by (le) (rate(cifake_probability_real_bucket[15m])))", f"{q:.0%}")
                    for q in (0.1, 0.5, 0.9)
                ],
            ),
            Panel("Drift (KS)", "none", [("max by (feature) (cifake_drift_ks)", "{{feature}}")]),
            Panel(
                "Values in the drift window", "none", [("max by (feature) (cifake_drift_window_count)", "{{feature}}")]
            ),
            Panel("Explanations", "reqps", [("sum by (method) (rate(cifake_explanations_total[15m]))", "{{method}}")]),
            Panel(
                "Faithfulness of explanations",
                "none",
                [
                    (
                        FAITHFULNESS,
                        "{{method}}",
                    )
                ],
            ),
            Panel(
                "Feedback",
                "none",
                [("sum by (truth, verdict) (cifake_feedback_total)", "{{truth}} taken for {{verdict}}")],
            ),
        ],
    },
    "Data & generation": {
        "The newest dataset version": [
            Panel("Age", "s", [("time() - max(cifake_dataset_created_timestamp_seconds)", "")], "stat"),
            Panel("Rows", "none", [("cifake_dataset_rows", "{{split}} {{label}}")], "stat"),
            Panel(
                "Generators", "none", [("sum by (generator) (cifake_dataset_generator_rows)", "{{generator}}")], "stat"
            ),
        ],
        "Validation": [
            Panel("Accepted", "bool_yes_no", [("cifake_validation_success", "{{dataset_version}}")], "stat"),
            Panel(
                "Failed expectations",
                "none",
                [("cifake_validation_failed_expectations", "{{suite}} {{severity}}")],
                "stat",
            ),
            Panel(
                "Shortcut AUC",
                "none",
                [("cifake_validation_shortcut_auc", "{{audit}} {{part}}")],
                "stat",
                "0.5: the label cannot be told without the picture.",
            ),
        ],
        "Generation": [
            Panel(
                "Images a second",
                "none",
                [("sum by (generator) (cifake_generation_images_per_second)", "{{generator}}")],
            ),
            Panel("Images drawn", "none", [("sum by (generator) (cifake_generation_images)", "{{generator}}")]),
            Panel("Time left", "s", [("max by (generator) (cifake_generation_eta_seconds)", "{{generator}}")]),
        ],
    },
    "Pipeline": {
        "DAG runs": [
            Panel(
                "Last runs",
                "dateTimeFromNow",
                [("cifake_dag_run_ended_timestamp_seconds * 1000", "{{dag_id}} {{state}}")],
                "stat",
            ),
            Panel("Duration", "s", [("cifake_dag_run_seconds", "{{dag_id}} {{state}}")]),
        ],
        "Training": [
            Panel("Loss", "none", [("cifake_training_loss", "{{topology}} {{split}}")]),
            Panel("Accuracy", "percentunit", [("cifake_training_accuracy", "{{topology}} {{split}}")]),
            Panel("Progress", "percentunit", [("cifake_training_epoch / cifake_training_epochs", "{{topology}}")]),
            Panel("Seconds an epoch", "s", [("cifake_training_epoch_seconds", "{{topology}}")]),
        ],
        "Monitoring itself": [
            Panel("Targets up", "bool_yes_no", [("up", "{{job}}")], "stat"),
            Panel("Time since a step pushed", "s", [("time() - push_time_seconds", "{{job}}")], "stat"),
        ],
    },
}
