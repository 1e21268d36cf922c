# Images, Kubernetes and compose. IMAGES and TAG name images; CONTAINER_TOOL builds them; OVERLAY is one of k8s/overlays.
OVERLAY ?= local
ROLES ?= serve train generate orchestrate mlflow
KUBECTL ?= .venv-deploy/bin/kubectl
PODMAN = $(or $(CIFAKE_CONTAINER_TOOL),scripts/containers/podman)
COMPOSE ?= docker compose -f deploy/compose.yaml

secrets: ## Make the secrets compose and the local overlay read; what exists stays
	@python3 deploy/make_secrets.py deploy/secrets
	@python3 deploy/make_secrets.py k8s/overlays/local/secrets

deploy-tools:
	@scripts/setup deploy

images: ## Build the images (CONTAINER_TOOL, BASE_IMAGE, ROLES, TAG)
	@scripts/containers/build.sh $(ROLES)

images-offline: ## The same where no registry is reachable: base image and stand-ins included
	@scripts/containers/base-image.sh
	@CONTAINER_TOOL=$(PODMAN) BASE_IMAGE=localhost/cifake/base:bookworm scripts/containers/build.sh $(ROLES)
	@CONTAINER_TOOL=$(PODMAN) scripts/containers/standins.sh

test-images: setup-ml deploy-tools ## Run the images, the compose stack and the local overlay with podman, and test them
	CIFAKE_TEST_IMAGES=1 $(python) -m pytest tests/containers

compose-up: secrets ## Start the whole stack with compose, and wait until it is healthy
	@$(COMPOSE) up --detach --wait

compose-down: ## Stop it; its volumes stay
	@$(COMPOSE) down

# BACKUP is a folder; TARGET is compose or kubernetes.
backup: ## Write databases and objects of the running stack to BACKUP
	@COMPOSE="$(COMPOSE)" KUBECTL="$(KUBECTL) --namespace cifake" deploy/backup.sh backup "$(BACKUP)"

restore: ## Replace databases of the running stack by BACKUP's, and put its objects
	@COMPOSE="$(COMPOSE)" KUBECTL="$(KUBECTL) --namespace cifake" deploy/backup.sh restore "$(BACKUP)"

check-deploy: deploy-tools ## Render and check everything in deploy/ and k8s/, statically
	@scripts/prometheus-tools .venv-deploy/bin
	@.venv-deploy/bin/python -m deploy.check

k8s-render: deploy-tools secrets ## Print the objects of OVERLAY
	@$(KUBECTL) kustomize k8s/overlays/$(OVERLAY)

# Jobs cannot be changed once made: the last release's are removed before this one's are applied.
k8s-apply: deploy-tools secrets ## Apply OVERLAY to the cluster kubectl points at
	@$(KUBECTL) --namespace cifake delete job --selector cifake/once-per-release=true --ignore-not-found
	@$(KUBECTL) apply --kustomize k8s/overlays/$(OVERLAY)

k8s-smoke: ## Wait for the stack in the cluster
	@$(KUBECTL) --namespace cifake wait --for=condition=complete --timeout=900s job --selector cifake/once-per-release=true
	@for each in deployment/mlflow deployment/detector deployment/airflow-api-server deployment/airflow-dag-processor \
	  statefulset/airflow-scheduler statefulset/airflow-triggerer; do \
	  $(KUBECTL) --namespace cifake rollout status --timeout=600s $$each || exit 1; done

.PHONY: secrets deploy-tools images images-offline test-images compose-up compose-down backup restore check-deploy k8s-render k8s-apply k8s-smoke
