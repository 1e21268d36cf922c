"""The pod part of the Kubernetes API, of one node and one namespace, whose pods really run: podman plays them.

It speaks TLS, knows service accounts by their tokens, and allows them what the rendered Roles say and nothing else.
What it does not do: scheduling (requests, selectors, tolerations), network policies, deadlines, garbage collection.
"""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import json
import ssl
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.containers.conftest import Podman
from tests.containers.play import playable

Object = dict[str, Any]
PODS = "/api/v1/namespaces/{namespace}/pods"
ENDED = ("Succeeded", "Failed")
POLL_SECONDS = 0.5


def now() -> str:
    """The time as Kubernetes writes it."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def failure(code: int, reason: str, message: str) -> web.Response:
    """A Kubernetes Status that says why not."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    return web.json_response(body, status=code)


def selected(pod: Object, selector: str) -> bool:
    """Does a label selector (`a=b`, `a!=b`, `a`, `!a`, comma-separated) choose this pod?"""
    labels = pod["metadata"].get("labels") or {}
    for term in filter(None, selector.split(",")):
        name, _, value = term.replace("==", "=").partition("=")
        if name.startswith("!"):
            matches = name[1:] not in labels
        elif name.endswith("!"):
            matches = labels.get(name[:-1]) != value
        else:
            matches = labels.get(name) == value if "=" in term else name in labels
        if not matches:
            return False
    return True


class PodApi:
    """The server, on a thread of its own.

    Args:
        socket: of `podman system service`, for what is asked often.
        network: the podman network that pods join.
        objects: the rendered overlay: its PodTemplates, ConfigMaps, Secrets, Roles and RoleBindings.
        tokens: bearer token → service account.

    Attributes:
        seen: every pod that was created, by name, as it last was.
        refused: requests that the Roles do not allow.
        strike: called with each pod once its first container runs; True kills it.
    """

    def __init__(
        self, podman: Podman, socket: Path, network: str, objects: list[Object], tokens: dict[str, str]
    ) -> None:
        self.podman, self.socket, self.network, self.objects, self.tokens = podman, socket, network, objects, tokens
        self.pods: dict[str, Object] = {}
        self.seen: dict[str, Object] = {}
        self.refused: list[str] = []
        self.strike: Callable[[Object], bool] = lambda _pod: False
        self._version = 100
        self._struck: set[str] = set()
        self._started: set[str] = set()
        self._loop = asyncio.new_event_loop()

    def start(self, address: str, certificate: Path, key: Path) -> int:
        """Serve on a free port of this address; returns the port."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        port: list[int] = []
        up = threading.Event()

        async def serve() -> None:
            self._http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket)))
            self._runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=1)
            await self._runner.setup()
            site = web.TCPSite(self._runner, address, 0, ssl_context=context)
            await site.start()
            assert site._server
            port.append(site._server.sockets[0].getsockname()[1])
            up.set()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.create_task(serve())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert up.wait(30)
        return port[0]

    def stop(self) -> None:
        """Stop serving and remove what still runs."""
        for closing in (self._runner.cleanup(), self._http.close()):
            asyncio.run_coroutine_threadsafe(closing, self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
        for name in self.pods:
            self.podman.run("pod", "rm", "--force", "--time=1", name)

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._authorise])
        one = PODS + "/{name}"
        app.add_routes(
            [
                web.get("/version", self._describe),
                web.post(PODS, self._create),
                web.get(PODS, self._list),
                web.get(one, self._get),
                web.patch(one, self._patch),
                web.delete(one, self._delete),
                web.get(one + "/log", self._log),
                web.get("/api/v1/namespaces/{namespace}/podtemplates/{name}", self._template),
                web.get("/api/v1/namespaces/{namespace}/events", self._events),
            ]
        )
        return app

    @web.middleware
    async def _authorise(self, request: web.Request, handler: Any) -> web.StreamResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        account = self.tokens.get(token)
        if scheme.lower() != "bearer" or account is None:  # inside a cluster Airflow's client writes it small
            return failure(401, "Unauthorized", "no such token")
        if request.path != "/version":
            verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(request.method, "get")
            if verb == "get" and "name" not in request.match_info:
                verb = "watch" if request.query.get("watch") in ("true", "True", "1") else "list"
            parts = request.path.split("/")[5:]  # after /api/v1/namespaces/NAME
            resource = parts[0] + ("/log" if parts[2:] == ["log"] else "")
            if not self._allowed(account, verb, resource):
                self.refused.append(f"{account}: {verb} {resource}")
                return failure(403, "Forbidden", self.refused[-1])
        return await handler(request)

    def _allowed(self, account: str, verb: str, resource: str) -> bool:
        bound = {
            each["roleRef"]["name"]
            for each in self.objects
            if each["kind"] == "RoleBinding" and any(s["name"] == account for s in each["subjects"])
        }
        rules = [r for o in self.objects if o["kind"] == "Role" and o["metadata"]["name"] in bound for r in o["rules"]]
        return any(verb in rule["verbs"] and resource in rule["resources"] for rule in rules)

    def _touch(self, pod: Object) -> None:
        self._version += 1
        pod["metadata"]["resourceVersion"] = str(self._version)
        self.seen[pod["metadata"]["name"]] = copy.deepcopy(pod)

    async def _describe(self, _request: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": "37", "gitVersion": "v1.37.0+podman"})

    async def _template(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = [o for o in self.objects if o["kind"] == "PodTemplate" and o["metadata"]["name"] == name]
        return web.json_response(found[0]) if found else failure(404, "NotFound", f'podtemplates "{name}" not found')

    async def _create(self, request: web.Request) -> web.Response:
        pod = await request.json()
        about = pod["metadata"]
        about.setdefault("name", about.get("generateName", "pod-") + uuid.uuid4().hex[:5])
        if about["name"] in self.pods:
            return failure(409, "AlreadyExists", f'pods "{about["name"]}" already exists')
        about |= {"namespace": request.match_info["namespace"], "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}
        pod |= {"apiVersion": "v1", "kind": "Pod"}
        pod["status"] = {"phase": "Pending", "conditions": [scheduled], "startTime": now()}
        self.pods[about["name"]] = pod
        self._touch(pod)
        self._start_task = asyncio.ensure_future(self._start(pod))
        return web.json_response(pod, status=201)

    async def _start(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        plain = {**pod, "metadata": {"name": name, "labels": pod["metadata"].get("labels", {})}}
        plain.pop("status")
        play = ("kube", "play", "--network", self.network, "-")
        text = playable(plain, self.objects)
        done = await asyncio.to_thread(self.podman.run, *play, input=text)
        self._started.add(name)
        if done.returncode:
            waiting = {"reason": "CreateContainerError", "message": done.stderr[-500:]}
            pod["status"]["containerStatuses"] = [
                {**_status(c), "state": {"waiting": waiting}} for c in pod["spec"]["containers"]
            ]
            self._touch(pod)

    async def _refresh(self, pod: Object) -> Object:
        name = pod["metadata"]["name"]
        if pod["status"]["phase"] in ENDED or name not in self._started:
            return pod
        query = {"all": "true", "filters": json.dumps({"pod": [name]})}
        async with self._http.get("http://podman/v5.0.0/libpod/containers/json", params=query) as answer:
            found = {each["Names"][0]: each for each in await answer.json()}
        statuses = [_status(c, found.get(f"{name}-{c['name']}")) for c in pod["spec"]["containers"]]
        states = [next(iter(each["state"])) for each in statuses]
        if "running" in states:
            phase = "Running"
        elif "waiting" in states:
            phase = "Pending"
        else:
            codes = [each["state"]["terminated"]["exitCode"] for each in statuses]
            phase = "Failed" if any(codes) else "Succeeded"
        if statuses != pod["status"].get("containerStatuses"):
            pod["status"] |= {"phase": phase, "containerStatuses": statuses}
            self._touch(pod)
        if phase == "Running" and name not in self._struck and self.strike(pod):
            self._struck.add(name)
            await asyncio.to_thread(self.podman.run, "kill", f"{name}-{pod['spec']['containers'][0]['name']}")
        return pod

    async def _get(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.pods:
            return failure(404, "NotFound", f'pods "{name}" not found')
        return web.json_response(await self._refresh(self.pods[name]))

    async def _items(self, request: web.Request) -> list[Object]:
        wanted = request.query.get("fieldSelector", "").partition("metadata.name=")[2]
        chosen = [p for p in self.pods.values() if selected(p, request.query.get("labelSelector", ""))]
        return [await self._refresh(p) for p in chosen if wanted in ("", p["metadata"]["name"])]

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") not in ("true", "True", "1"):
            about = {"resourceVersion": str(self._version)}
            return web.json_response(
                {"kind": "PodList", "apiVersion": "v1", "metadata": about, "items": await self._items(request)}
            )
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        told: dict[str, str] = {}
        end = self._loop.time() + float(request.query.get("timeoutSeconds", 300))
        while self._loop.time() < end:
            for pod in await self._items(request):
                about = pod["metadata"]
                if told.get(about["uid"]) != about["resourceVersion"]:
                    event = {"type": "MODIFIED" if about["uid"] in told else "ADDED", "object": pod}
                    await stream.write(json.dumps(event).encode() + b"\n")
                    told[about["uid"]] = about["resourceVersion"]
            await asyncio.sleep(POLL_SECONDS)
        return stream

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") not in ("true", "True", "1"):
            about = {"resourceVersion": str(self._version)}
            return web.json_response({"kind": "EventList", "apiVersion": "v1", "metadata": about, "items": []})
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        await asyncio.sleep(float(request.query.get("timeoutSeconds", 30)))
        return stream

    async def _patch(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.pods:
            return failure(404, "NotFound", f'pods "{name}" not found')
        given = (await request.json()).get("metadata") or {}
        for kind in ("labels", "annotations"):
            self.pods[name]["metadata"].setdefault(kind, {}).update(given.get(kind) or {})
        self._touch(self.pods[name])
        return web.json_response(self.pods[name])

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.pods:
            return failure(404, "NotFound", f'pods "{name}" not found')
        pod = self.pods.pop(name)
        await asyncio.to_thread(self.podman.run, "pod", "rm", "--force", "--time=2", name)
        pod["metadata"]["deletionTimestamp"] = now()
        self._touch(pod)
        return web.json_response(pod)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        name, query = request.match_info["name"], request.query
        if name not in self.pods:
            return failure(404, "NotFound", f'pods "{name}" not found')
        flags = [
            *(["--timestamps"] if query.get("timestamps", "").lower() == "true" else []),
            *(["--follow"] if query.get("follow", "").lower() == "true" else []),
            *(["--tail", query["tailLines"]] if "tailLines" in query else []),
            *(["--since", f"{query['sinceSeconds']}s"] if "sinceSeconds" in query else []),
        ]
        container = f"{name}-{query.get('container') or self.pods[name]['spec']['containers'][0]['name']}"
        stream = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await stream.prepare(request)
        process = await asyncio.create_subprocess_exec(
            *(self.podman.command, "logs", *flags, container),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout
        try:
            while line := await process.stdout.readline():
                await stream.write(line)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        return stream


def _status(container: Object, found: Object | None = None) -> Object:
    """A container's status, from what podman says of it."""
    status = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0, "ready": False}
    if found is None or found["State"] in ("created", "configured", "initialized"):
        return {**status, "state": {"waiting": {"reason": "ContainerCreating"}}}
    if found["State"] == "running":
        return {
            **status,
            "ready": True,
            "started": True,
            "state": {"running": {"startedAt": _time(found["StartedAt"])}},
        }
    code = found.get("ExitCode", 0)
    ended = {"exitCode": code, "reason": "Error" if code else "Completed"}
    times = {"startedAt": _time(found["StartedAt"]), "finishedAt": _time(found["ExitedAt"])}
    return {**status, "state": {"terminated": {**ended, **times}}}


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(max(seconds, 0), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
