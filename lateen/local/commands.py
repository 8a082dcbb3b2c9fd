"""The command line, environment and agent file of each process of a run. Pure but for the interpreter's own path."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lateen.local import netns, placement
from lateen.local.leases import Lease
from lateen.local.placement import Replica
from lateen.local.plan import Container, expand_env
from lateen.local.rundir import RunDir
from lateen.local.supervisor import ProcessSpec
from lateen.mesh.localconfig import LocalIssuer

LOOPBACK, NETNS = "loopback", "netns"
MODES = (LOOPBACK, NETNS)
ISSUER_PORT = 8000
OUTBOUND_PORT = 15001
READY_PORT = 15021
_PROXY_VARIABLES = frozenset({"http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "no_proxy"})


@dataclass(frozen=True, slots=True)
class Site:
    """Where a run stands: what every command needs to know."""

    run: RunDir
    mode: str
    lease: Lease
    directory: Path
    mesh_config: Path
    state_ca: Path
    issuer_keys: Path
    trust_domain: str
    root_namespace: str
    envoy: Path
    issuers: tuple[LocalIssuer, ...] = ()
    ahead_of_time: bool = False

    def host(self, number: int) -> str:
        """The address with this last byte."""
        return self.lease.host(number)

    @property
    def ads_address(self) -> str:
        return f"{self.host(placement.CONTROL_PLANE)}:15012"

    @property
    def ca_socket(self) -> Path:
        return self.run.path / "ca.sock"

    @property
    def redis_socket(self) -> Path:
        return self.run.path / "redis.sock"

    @property
    def gateway_ca(self) -> Path:
        """What a client of the HTTPS gateways has to trust."""
        return self.run.path / "tls" / "gateway-ca.pem"

    def sds_socket(self, number: int) -> Path:
        """The agent's socket for the proxy at this address."""
        return self.run.path / "sds" / f"{number}.sock"

    @property
    def modules(self) -> Path:
        """Where the control plane keeps the modules of plugins, and every Envoy reads them."""
        return self.run.path / "modules"

    def bootstrap(self, replica: Replica) -> Path:
        """What the agent writes for the replica's Envoy."""
        return self.run.path / "bootstrap" / f"{replica.number}.json"


def service_environment() -> dict[str, str]:
    """The environment of our own services: a proxy of the user's network has no business in it."""
    clean = {k: v for k, v in os.environ.items() if k.lower() not in _PROXY_VARIABLES and not k.startswith("LATEEN_")}
    # gRPC's C core would write lines of its own between our JSON.
    return {"GRPC_VERBOSITY": "NONE", **clean, "PYTHONUNBUFFERED": "1"}


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """A command that runs a module with this interpreter, and none of the same name that happens to be in the working directory."""
    return (sys.executable, "-P", "-m", module, *arguments)


def service_processes(site: Site, redis_url: str) -> list[ProcessSpec]:
    """Everything that runs once: control plane, CA, ext_authz, rate limits, token issuer. The agent and Redis come apart."""
    env = service_environment()
    overrides: list[str] = []
    for index, issuer in enumerate(site.issuers):
        local = f"http://{site.host(placement.ISSUER)}:{ISSUER_PORT}/{index}/jwks.json"
        overrides += ["--jwks-override", f"{issuer.jwks_uri}={local}"]
    host = site.host
    common = ("--ads-address", site.ads_address)
    kept = site.state_ca.parent
    control_plane = [
        *("--config-dir", str(site.directory), "--mesh-config", str(site.mesh_config), *common),
        *("--api-socket", str(site.run.api_socket)),
        *("--http-address", f"{host(placement.CONTROL_PLANE)}:15014"),
        *("--sds-socket", str(site.sds_socket(placement.CONTROL_PLANE)), "--modules-dir", str(site.modules)),
        *("--trials-file", str(kept / "plugin-trials.json")),
        *(("--ahead-of-time-dir", str(kept / "ahead-of-time")) if site.ahead_of_time else ()),
        *overrides,
    ]
    ca = [
        *("--state-dir", str(site.state_ca), "--address", f"{host(placement.CA)}:15013"),
        *("--admin-socket", str(site.ca_socket), "--trust-domain", site.trust_domain),
    ]
    extauthz = [
        *("--address", f"{host(placement.EXTAUTHZ)}:9191", "--http-address", f"{host(placement.EXTAUTHZ)}:9192"),
        *(*common, "--sds-socket", str(site.sds_socket(placement.EXTAUTHZ)), *overrides),
    ]
    ratelimit = [
        *("--address", f"{host(placement.RATELIMIT)}:8081", "--http-address", f"{host(placement.RATELIMIT)}:8082"),
        *(*common, "--sds-socket", str(site.sds_socket(placement.RATELIMIT)), "--redis-url", redis_url),
    ]
    processes = [
        ProcessSpec("ca", python_module("ca", *ca), env),
        ProcessSpec("controlplane", python_module("lateen.controlplane", *control_plane), env),
        ProcessSpec("extauthz", python_module("extauthz", *extauthz), env),
        ProcessSpec("ratelimit", python_module("ratelimit", *ratelimit), env),
    ]
    if site.issuers:
        names = [argument for issuer in site.issuers for argument in ("--issuer", issuer.issuer)]
        address = f"{host(placement.ISSUER)}:{ISSUER_PORT}"
        arguments = ("--keys", str(site.issuer_keys), "--address", address, *names)
        processes.append(ProcessSpec("issuer", python_module("lateen.local.issuer", *arguments), env))
    return processes


def agent_config(site: Site, root_cert: Path) -> dict[str, Any]:
    """agent.json."""
    return {
        "ca_address": f"{site.host(placement.CA)}:15013",
        "root_cert_file": str(root_cert),
        "proxies_dir": str(site.run.path / "proxies.d"),
        "ads_address": site.ads_address,
        "trust_domain": site.trust_domain,
        "http_address": f"{site.host(placement.AGENT)}:15020",
        "modules_dir": str(site.modules),
    }


def agent_proxy(site: Site, replica: Replica, token: str) -> dict[str, Any]:
    """The agent's file for the proxy of a replica."""
    workload = replica.workload
    captured = site.mode == NETNS and not replica.is_gateway
    return {
        "name": replica.name,
        "namespace": workload.namespace,
        "service_account": workload.service_account,
        "node_type": workload.kind.value,
        "address": replica.address,
        "app_address": "127.0.0.1" if captured else replica.app_address,
        "workload_name": workload.name,
        "labels": dict(workload.labels),
        "mode": "REDIRECT" if captured else "NONE",
        "token": token,
        "sds_socket": str(site.sds_socket(replica.number)),
        "bootstrap_file": str(site.bootstrap(replica)),
        "ports": list(workload.listen_ports),
    }


def agent_service(site: Site, name: str, number: int, token: str) -> dict[str, Any]:
    """The agent's file for one of our own services: certificates only, no Envoy."""
    return {
        "name": f"{name}-0",
        "namespace": site.root_namespace,
        "service_account": name,
        "node_type": "service",
        "address": site.host(number),
        "app_address": site.host(number),
        "workload_name": name,
        "labels": {"app": name},
        "mode": "NONE",
        "token": token,
        "sds_socket": str(site.sds_socket(number)),
        "bootstrap_file": None,
        "ports": [],
    }


def envoy_process(site: Site, replica: Replica) -> ProcessSpec:
    """The replica's Envoy."""
    arguments = (
        *(str(site.envoy), "--config-path", str(site.bootstrap(replica))),
        *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "1"),
        # misc as in Istio, else each use of a deprecated field is a warning; wasm: what filters print and log, access-log too
        *("--component-log-level", "misc:error,wasm:info"),
    )
    env = {"PATH": os.environ.get("PATH", os.defpath)}
    name = f"{replica.log_name}.envoy"
    if site.mode == NETNS:
        inside = netns.enter(site.run.id, replica, uid=netns.ENVOY_UID)
        return ProcessSpec(name, (*inside, *arguments), env, owner=netns.ENVOY_UID)
    return ProcessSpec(name, arguments, env)


def app_process(site: Site, replica: Replica, container: Container, mapped: Mapping[str, str]) -> ProcessSpec:
    """One container of a replica. `mapped` has the addresses of the sidecar's ports for gRPC and TCP services."""
    workload = replica.workload
    here = str(site.directory)
    env = {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "HOME": os.environ.get("HOME", "/"),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "PYTHONUNBUFFERED": "1",
        "WORKLOAD": workload.name,
        "VERSION": workload.labels.get("version", ""),
        "REPLICA": replica.name,
        "NAMESPACE": workload.namespace,
        "PORT": str(container.port),
    }
    if site.mode == NETNS:
        env["HOST"] = "0.0.0.0"  # noqa: S104  (in a network namespace of its own)
        prefix = netns.enter(site.run.id, replica)
    else:
        proxy = proxy_url(replica)
        local = f"localhost,127.0.0.1,{replica.app_address}"
        env |= {"HOST": replica.app_address, "NO_PROXY": local, "no_proxy": local}
        env |= {"http_proxy": proxy, "HTTP_PROXY": proxy, **mapped}
        prefix = ()
    env |= expand_env(container)
    command = tuple(word.replace("{dir}", here) for word in container.command)
    return ProcessSpec(
        app_process_id(replica, container), (*prefix, *command), env, cwd=str(site.directory / container.workdir)
    )


def app_process_id(replica: Replica, container: Container) -> str:
    """`payments-api-v1-0.app`; the container's name when there are several."""
    several = len(replica.workload.containers) > 1
    return f"{replica.log_name}.{container.name if several else 'app'}"


def proxy_url(replica: Replica) -> str:
    """The replica's outbound HTTP listener, usable as an http_proxy."""
    return f"http://{replica.address}:{OUTBOUND_PORT}"


def redis_process(argv: Sequence[str]) -> ProcessSpec:
    """Redis, when there is one."""
    return ProcessSpec("redis", tuple(argv), service_environment())
