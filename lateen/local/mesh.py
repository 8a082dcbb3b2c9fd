"""Starts a mesh, in the right order and as parallel as that allows, and changes its size while it runs."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from lateen.local import commands, mapped, netns, placement, readiness, registration, unixhttp
from lateen.local.certificates import WebAuthority
from lateen.local.commands import Site
from lateen.local.placement import Replica
from lateen.local.plan import Plan
from lateen.local.readiness import Standing
from lateen.local.redis_server import WARNING, choose_redis
from lateen.local.registration import Document
from lateen.local.rundir import RunInfo, StateDir
from lateen.local.runinfo import run_info
from lateen.local.source import Source
from lateen.local.status import ProxyStatus, missing, parse_proxies, readable_log, rejected
from lateen.local.supervisor import EventKind, ProcessSpec, Supervisor, log_tail

POLL_SECONDS = 0.05
CA_SECONDS = 20.0
CERTIFICATE_SECONDS = 30.0
SYNC_POLL_SECONDS = 0.1
TOKEN_TTL_SECONDS = 3600
DRAIN_SECONDS = 0.5
READY_SECONDS = 10.0
SYNC_POLLS = 2
# Who waits longer wants to know what for.
SAY_SECONDS = 3.0
# What Envoy refuses it refuses again: no reason to wait for the timeout.
REFUSED_SECONDS = 4.0


class StartError(Exception):
    """The mesh did not start; the text says which part, and why."""


@dataclass(slots=True)
class Mesh:
    """A running mesh. Use `start`, then `wait_until_synced`; `close` ends everything, whatever state it is in."""

    site: Site
    state: StateDir
    source: Source
    plan: Plan
    supervisor: Supervisor
    network: netns.Network | None
    say: Callable[[str], None]
    replicas: dict[str, Replica] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    registered: dict[str, dict[tuple[str, str, str], Document]] = field(default_factory=dict)
    mapped_ports: Mapping[str, int] = field(default_factory=dict)
    vips: dict[tuple[str, str], str] = field(default_factory=dict)
    web_authority: WebAuthority = field(default_factory=lambda: WebAuthority.create(datetime.now(UTC)))
    secrets: list[Document] = field(default_factory=list)
    unpublished: bool = False

    async def start(self) -> None:
        """Start everything. Returns when every Envoy has been started, not yet when it is in sync."""
        redis = choose_redis()
        if redis.binary:
            self.supervisor.start(commands.redis_process(redis.argv(self.site.redis_socket, self.site.run.path)))
        else:
            self.say(f"warning: {WARNING}")
        self._place(self.plan)
        if self.network is not None:
            # The services listen on the bridge's addresses: it comes first.
            await asyncio.to_thread(self.network.create)
        for spec in commands.service_processes(self.site, redis.url(self.site.redis_socket)):
            self.supervisor.start(spec)
        self._make_secrets()
        wanted = tuple(self.replicas.values())
        await self._make_namespaces(wanted)
        if self.network is None and mapped.needed(self.source):
            self.mapped_ports = await asyncio.to_thread(mapped.mapped_ports, self.source, self.documents())
        self._start_apps(wanted)
        await self._start_agent()
        await self._look(with_proxies=False)  # there are none yet
        await self._register()
        await self._start_envoys(wanted)

    async def close(self) -> None:
        """End every process and remove what was made."""
        await self.supervisor.close()

    # What start consists of

    def _place(self, plan: Plan) -> None:
        taken = {key: replica.number for key, replica in self.replicas.items()}
        own_app_address = self.site.mode == commands.LOOPBACK
        placed = placement.place(plan.workloads, self.site.lease.network, taken, own_app_address=own_app_address)
        self.replicas = {replica.key: replica for replica in placed}
        self.standings = {key: self.standings.get(key, readiness.STARTING) for key in self.replicas}
        if self.network is not None:
            self.vips = placement.assign_vips(plan.services, self.network.vips.network)
        self.plan = plan

    def _write_cleanup(self) -> None:
        """Tell the reaper what to undo. Written before anything is made."""
        duties = {
            "commands": netns.teardown(self.site.run.id, self.replicas.values()) if self.network else [],
            "keep_logs": str(self.state.last_logs),
        }
        path = self.site.run.path / "cleanup.json"
        path.with_suffix(".new").write_text(json.dumps(duties), encoding="utf-8")
        path.with_suffix(".new").replace(path)

    async def _make_namespaces(self, wanted: Sequence[Replica]) -> None:
        self._write_cleanup()
        if self.network is not None:
            hosts = {replica.key: self._hosts(replica) for replica in wanted}
            await asyncio.to_thread(self.network.add, wanted, hosts)

    def _hosts(self, replica: Replica) -> str:
        return placement.hosts_file(self.vips, replica.workload.namespace, replica.name, replica.address)

    def _start_apps(self, wanted: Iterable[Replica]) -> None:
        for replica in wanted:
            for container in replica.workload.containers:
                self.supervisor.start(commands.app_process(self.site, replica, container, self._mapped(replica)))

    def _mapped(self, replica: Replica) -> dict[str, str]:
        """Variables with the sidecar's ports for gRPC and TCP services."""
        return {name: f"{replica.address}:{port}" for name, port in self.mapped_ports.items()}

    def _make_secrets(self) -> None:
        gateways = [replica.address for replica in self.replicas.values() if replica.is_gateway]
        now = datetime.now(UTC)
        for certificate in self.source.local.certificates:
            namespace, _, name = certificate.secret.partition("/")
            chain, key = self.web_authority.issue(certificate.hosts, gateways, now)
            self.secrets.append(registration.tls_secret(namespace, name, chain, key))
        self.site.gateway_ca.write_bytes(self.web_authority.certificate_pem)

    async def _start_agent(self) -> None:
        root_cert = self.site.run.path / "tls" / "root-cert.pem"
        root_cert.write_text(await self._when_up(self.site.ca_socket, "ca", "/v1/root"), encoding="utf-8")
        await self._write_proxy_files()
        config = self.site.run.path / "agent.json"
        config.write_text(json.dumps(commands.agent_config(self.site, root_cert)), encoding="utf-8")
        argv = (*commands.python_module("lateen.agent"), "--config", str(config))
        # Its keys live in its memory only: a new agent needs new tokens.
        self.supervisor.start(
            ProcessSpec("agent", argv, commands.service_environment(), before_start=self._renew_tokens)
        )

    async def _renew_tokens(self) -> None:
        try:
            await self._when_up(self.site.ca_socket, "ca", "/v1/root")
            await self._write_proxy_files()
        except (StartError, OSError) as error:
            self.say(f"error: the agent starts without join tokens: {error}")

    async def _write_proxy_files(self, wanted: Sequence[Replica] | None = None) -> None:
        """Mint a token for each proxy (all, unless `wanted` says which), and write the agent's files."""
        root = self.site.root_namespace
        jobs: list[tuple[str, dict[str, Any]]] = []
        if wanted is None:
            for name, _, _, number in registration.OWN_SERVICES:
                if name != "lateen-ca":
                    names = [f"{name}.{root}.svc", f"{name}.{root}.svc.cluster.local"]
                    token = await self._token(root, name, names)
                    jobs.append((str(number), commands.agent_service(self.site, name, number, token)))
        for replica in self.replicas.values() if wanted is None else wanted:
            token = await self._token(replica.workload.namespace, replica.workload.service_account, [])
            jobs.append((str(replica.number), commands.agent_proxy(self.site, replica, token)))
        for stem, content in jobs:
            path = self.site.run.path / "proxies.d" / f"{stem}.json"
            temporary = path.with_suffix(".new")
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(path)

    async def _token(self, namespace: str, account: str, dns_names: Sequence[str]) -> str:
        body = {"namespace": namespace, "service_account": account, "ttl_seconds": TOKEN_TTL_SECONDS}
        text = json.dumps({**body, "dns_names": list(dns_names)})
        answer = await asyncio.to_thread(unixhttp.call, self.site.ca_socket, "POST", "/v1/tokens", body=text)
        if not isinstance(answer.body, dict) or "token" not in answer.body:
            raise StartError(f"the CA gave no join token for {namespace}/{account}: {answer.status} {answer.body}")
        return str(answer.body["token"])

    async def _when_up(self, path: Path, process: str, target: str) -> Any:  # noqa: ANN401  (JSON)
        """GET `target` as soon as the process behind the unix socket answers it; StartError when it crashes or takes too long."""
        deadline = time.monotonic() + CA_SECONDS
        while time.monotonic() < deadline:
            self._fail_on_crash(process)
            with contextlib.suppress(OSError):
                answer = await asyncio.to_thread(unixhttp.call, path, "GET", target)
                if answer.status == HTTPStatus.OK:
                    return answer.body
            await asyncio.sleep(POLL_SECONDS)
        raise StartError(f"{process} did not answer within {CA_SECONDS:.0f} s\n{self.tail(process)}")

    def _fail_on_crash(self, process: str | None = None, *, with_apps: bool = False) -> None:
        """StartError if `process`, or without it any part of the mesh, crashes again and again; applications only if told."""
        apps = {name for replica in self.replicas.values() for _, name in readiness.processes(replica)}
        for event in self.supervisor.events:
            meant = event.id == process if process else with_apps or event.id not in apps
            if event.kind is EventKind.CRASHING and meant:
                raise StartError(f"{event.id} does not start: {event.detail}\n{self.tail(event.id)}")

    def tail(self, process: str) -> str:
        """The end of a process' log, for an error message."""
        return readable_log(log_tail(self.supervisor.log_of(process)))

    # Registration

    def documents(self) -> list[Document]:
        """Everything the runner registers for the present plan."""
        addresses = {number: self.site.host(number) for number in netns.SERVICE_NUMBERS}
        documents = registration.own_services(self.site.root_namespace, addresses)
        documents += [
            registration.workload_entry(replica, serves=self.standings[key].serves)
            for key, replica in self.replicas.items()
        ]
        for service in self.plan.gateway_services:
            vip = self.vips.get((service.namespace, service.name), "")
            documents.append(registration.gateway_service(service, vip))
        return [*documents, *self.secrets]

    def overlay(self) -> list[Document]:
        """In netns mode, the manifests' Services with their VIPs."""
        if self.network is None:
            return []
        documents = []
        for service in self.source.services():
            _, namespace, name = registration.key_of(service)
            vip = self.vips.get((namespace, name))
            if vip:
                documents.append(registration.with_vip(service, vip))
        return documents

    async def _register(self) -> None:
        await self._when_up(self.site.run.api_socket, "controlplane", "/v1/info")
        await self.update_registration()

    async def update_registration(self, *, prune: bool = True) -> None:
        """Apply what has changed since the last time, and, if `prune`, delete what is no longer wanted."""
        for origin, wanted in (("runner", self.documents()), ("overlay", self.overlay())):
            apply, delete = registration.changes(self.registered.get(origin, {}), wanted)
            if apply:
                body = registration.render(apply)
                query = {"origin": origin, "file": "lateen-up"}
                answer = await self._api("POST", "/v1/apply", query=query, body=body)
                if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:  # its disk is full, say: it may come back
                    raise OSError(f"the control plane cannot take what lateen up registers: {answer.body}")
                if answer.status != HTTPStatus.OK:
                    raise StartError(f"the control plane refuses what lateen up registers: {answer.body}")
            for kind, namespace, name in delete if prune else ():
                await self._api("DELETE", f"/v1/resources/{kind}/{namespace}/{name}", query={"origin": origin})
            kept = {} if prune else self.registered.get(origin, {})
            self.registered[origin] = {**kept, **{registration.key_of(document): document for document in wanted}}

    async def _api(
        self, method: str, target: str, *, query: Mapping[str, str] | None = None, body: str | None = None
    ) -> unixhttp.Answer:
        return await asyncio.to_thread(unixhttp.call, self.site.run.api_socket, method, target, query=query, body=body)

    async def api_get(self, target: str) -> Any:  # noqa: ANN401  (JSON)
        """GET from the control plane; OSError when it does not answer, or not with 200."""
        answer = await self._api("GET", target)
        if answer.status != HTTPStatus.OK:
            raise OSError(f"{target}: {answer.status}")
        return answer.body

    # Envoys

    async def _start_envoys(self, wanted: Iterable[Replica]) -> None:
        await asyncio.gather(*(self._start_envoy(replica) for replica in wanted))

    async def _start_envoy(self, replica: Replica) -> None:
        """Start the Envoy of a replica once its certificate has been issued."""
        bootstrap, sds = self.site.bootstrap(replica), self.site.sds_socket(replica.number)
        deadline = time.monotonic() + CERTIFICATE_SECONDS
        while not (bootstrap.exists() and sds.exists()):
            self._fail_on_crash("agent")
            if time.monotonic() > deadline:
                waited = f"no certificate for {replica.key} within {CERTIFICATE_SECONDS:.0f} s"
                raise StartError(f"{waited}\n{self.tail('agent')}")
            await asyncio.sleep(POLL_SECONDS)
        if self.network is not None:
            for path in (bootstrap, sds):
                os.chown(path, netns.ENVOY_UID, netns.ENVOY_UID)
        self.supervisor.start(commands.envoy_process(self.site, replica))

    # In sync

    async def wait_until_synced(self, timeout: float, *, strict: bool) -> dict[str, ProxyStatus]:
        """Wait until every proxy has acknowledged its configuration and every application serves. TimeoutError says who does not.

        An application that crashes again and again is a StartError if `strict`; else neither it nor one that does not listen is waited for.
        """
        began = time.monotonic()
        said: set[str] = set()
        seen: list[dict[str, ProxyStatus]] = []
        waiting = ["starting took all of the time: give it more with --timeout"]
        refused_since = began
        while time.monotonic() < began + timeout and time.monotonic() - refused_since < REFUSED_SECONDS:
            self._fail_on_crash(with_apps=strict)
            await self.look_at_apps()
            proxies = await self.proxies()
            waiting = (
                missing(self._expected(), proxies) if proxies is not None else ["the control plane does not answer"]
            )
            waiting += [
                f"{key}: {standing.detail}"
                for key, standing in self.standings.items()
                if not standing.serves and (strict or not standing.hopeless)
            ]
            if not waiting:
                waiting = await self._proxies_not_ready()
            if waiting or proxies is None:
                seen.clear()
            else:
                seen.append(proxies)
                if len(seen) >= SYNC_POLLS and _same_versions(seen[-1], seen[-2]):
                    return proxies
            if time.monotonic() - began > SAY_SECONDS:
                refusals = rejected(proxies.values()) if proxies is not None else []
                news = [line for line in waiting if line not in said and line not in refusals]
                if news:
                    self.say("\n".join(f"waiting for {line}" for line in news))
                said.update(waiting)
            await asyncio.sleep(SYNC_POLL_SECONDS)
            if proxies is None or not waiting or waiting != rejected(proxies.values()):
                refused_since = time.monotonic()  # it is not (only) Envoy's refusal that we wait for
        raise TimeoutError(
            self._explain(waiting or ["starting took nearly all of the time: give it more with --timeout"])
        )

    async def look_at_apps(self) -> None:
        """Bring `standings` up to date, and let the control plane know who serves."""
        await self._look(with_proxies=True)
        with contextlib.suppress(OSError):  # the control plane restarts: at the next look
            await self.update_registration(prune=False)

    async def _look(self, *, with_proxies: bool) -> None:
        states = {
            key: {name: self.supervisor.state(name) for _, name in readiness.processes(replica)}
            for key, replica in self.replicas.items()
        }
        changed = [
            key
            for key, standing in self.standings.items()
            if not standing.serves or standing.pids != tuple(state.pid for state in states[key].values())
        ]
        looks = (
            asyncio.to_thread(readiness.look, self.site, self.replicas[key], states[key], with_proxy=with_proxies)
            for key in changed
        )
        self.standings.update(zip(changed, await asyncio.gather(*looks), strict=True))

    async def _proxies_not_ready(self) -> list[str]:
        replicas = list(self.replicas.values())
        reasons = await asyncio.gather(*(asyncio.to_thread(readiness.proxy_not_ready, one) for one in replicas))
        return [f"{replica.key}: {reason}" for replica, reason in zip(replicas, reasons, strict=True) if reason]

    async def proxies(self) -> dict[str, ProxyStatus] | None:
        """What the control plane knows of its proxies; None while it does not answer."""
        try:
            return parse_proxies(await self.api_get("/v1/proxies"))
        except (OSError, ValueError):
            return None

    def _expected(self) -> list[str]:
        own = [f"{self.site.root_namespace}/{name}-0" for name in ("lateen-extauthz", "lateen-ratelimit")]
        return [*own, *self.replicas]

    def _explain(self, waiting: Iterable[str]) -> str:
        lines = []
        for line in waiting:
            lines.append(line)
            replica = self.replicas.get(line.partition(":")[0])
            if replica is not None and "not connected" in line:
                lines.append(self.tail(f"{replica.log_name}.envoy"))
        return "\n".join(lines)

    # Changing size

    async def rescale(self, plan: Plan, source: Source) -> tuple[list[Replica], list[Replica], list[Replica]]:
        """Start and stop replicas to follow a new plan; returns who came, who went, and whose application was replaced.

        OSError: not now, try again.
        """
        await self.api_get("/v1/info")  # half of a change is worse than none: not while the control plane is away
        await self._when_up(self.site.ca_socket, "ca", "/v1/root")
        running = self.replicas
        before = (self.source, self.plan, self.replicas, self.vips, self.standings)
        self.source = source
        self._place(plan)
        gone = [replica for key, replica in running.items() if key not in self.replicas]
        come = [replica for key, replica in self.replicas.items() if key not in running]
        changed = [
            (old, replica)
            for key, replica in self.replicas.items()
            if (old := running.get(key)) is not None and old.workload.containers != replica.workload.containers
        ]
        try:
            await self._add(come)
        except (StartError, OSError, netns.NetnsError):
            await asyncio.gather(*(self._stop_replica(replica) for replica in come))
            self.source, self.plan, self.replicas, self.vips, self.standings = before
            raise
        await self._until_ready(come)  # those that go serve until then
        try:
            await self.update_registration()
        finally:
            if gone:
                await asyncio.sleep(DRAIN_SECONDS)  # callers learn first that it is gone
                await asyncio.gather(*(self._stop_replica(replica) for replica in gone))
        for old, replica in changed:
            await self._replace_app(old, replica)
        return come, gone, [replica for _, replica in changed]

    async def _replace_app(self, old: Replica, new: Replica) -> None:
        """Stop the processes of a replica and start those that it has now; callers learn first that it does not serve."""
        self.standings[new.key] = readiness.STARTING
        with contextlib.suppress(OSError):
            await self.update_registration(prune=False)
        await asyncio.sleep(DRAIN_SECONDS)
        await asyncio.gather(*(self.supervisor.stop(name) for _, name in readiness.processes(old)))
        self._start_apps([new])
        await self._until_ready([new])

    async def _add(self, come: Sequence[Replica]) -> None:
        if come:
            await self._make_namespaces(come)
            self._start_apps(come)
            await self._write_proxy_files(come)
        if self.network is not None:
            for replica in self.replicas.values():
                await asyncio.to_thread(self.network.write_hosts, replica, self._hosts(replica))
        await self.update_registration(prune=False)
        await self._start_envoys(come)

    async def _until_ready(self, come: Sequence[Replica]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            await self.look_at_apps()
            if all((standing := self.standings[replica.key]).serves or standing.hopeless for replica in come):
                return
            await asyncio.sleep(SYNC_POLL_SECONDS)

    async def _stop_replica(self, replica: Replica) -> None:
        names = [commands.app_process_id(replica, container) for container in replica.workload.containers]
        await asyncio.gather(*(self.supervisor.stop(name) for name in (f"{replica.log_name}.envoy", *names)))
        for path in (self.site.run.path / "proxies.d" / f"{replica.number}.json", self.site.bootstrap(replica)):
            path.unlink(missing_ok=True)
        if self.network is not None:
            await asyncio.to_thread(self.network.remove, replica)

    # What others see

    def info(self) -> RunInfo:
        """The contents of run.json."""
        return run_info(self.site, os.getpid(), tuple(self.replicas.values()), self.standings)

    def publish(self) -> None:
        """Write run.json. A disk that is full does not end what runs: others then see the state of before."""
        try:
            self.site.run.write_info(self.info())
        except OSError as error:
            if not self.unpublished:
                self.say(f"warning: cannot write run.json: {error.strerror}")
            self.unpublished = True
        else:
            self.unpublished = False


def _same_versions(one: Mapping[str, ProxyStatus], other: Mapping[str, ProxyStatus]) -> bool:
    return {k: s.versions for k, s in one.items()} == {k: s.versions for k, s in other.items()}
