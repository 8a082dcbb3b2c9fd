"""Which replica gets which address. Pure, and stable: a replica keeps its number while others come and go."""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from lateen.local.plan import ServiceName, Workload, WorkloadKind

CONTROL_PLANE, CA, EXTAUTHZ, RATELIMIT, ISSUER, AGENT = range(1, 7)
FIRST_REPLICA, LAST_REPLICA = 10, 109
APP_OFFSET = 100
FIRST_GATEWAY, LAST_GATEWAY = 220, 250
FIRST_VIP, VIPS = 1, 254


class NoRoomError(Exception):
    """More replicas or services than one local mesh has addresses for."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of a workload at its addresses. `number` is the last byte of its address."""

    workload: Workload
    index: int
    number: int
    address: str
    app_address: str

    @property
    def name(self) -> str:
        """The name of its WorkloadEntry."""
        return self.workload.replica_name(self.index)

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.workload.namespace}/{self.name}"

    @property
    def log_name(self) -> str:
        """The stem of its logs and process ids."""
        return f"{self.workload.log_name}-{self.index}"

    @property
    def is_gateway(self) -> bool:
        """Whether it is an Envoy without an application."""
        return self.workload.kind is WorkloadKind.ROUTER


def place(
    workloads: Iterable[Workload], network: IPv4Network, taken: Mapping[str, int], *, own_app_address: bool
) -> tuple[Replica, ...]:
    """Give each replica an address of `network`. `taken` (key to number) holds those that run already.

    Also the addresses of those that are no longer wanted stay theirs: they have still to be stopped.
    `own_app_address`: the application listens on an address of its own, since proxy and application share one network.
    """
    wanted = [(workload, index) for workload in workloads for index in range(workload.replicas)]
    used = set(taken.values())
    replicas = []
    for workload, index in wanted:
        key = f"{workload.namespace}/{workload.replica_name(index)}"
        number = taken.get(key) or _free(workload, used)
        used.add(number)
        address = str(network.network_address + number)
        gateway = workload.kind is WorkloadKind.ROUTER
        app = str(network.network_address + number + APP_OFFSET) if own_app_address and not gateway else address
        replicas.append(Replica(workload, index, number, address, app))
    return tuple(replicas)


def _free(workload: Workload, used: set[int]) -> int:
    gateway = workload.kind is WorkloadKind.ROUTER
    numbers = range(FIRST_GATEWAY, LAST_GATEWAY + 1) if gateway else range(FIRST_REPLICA, LAST_REPLICA + 1)
    for number in numbers:
        if number not in used:
            return number
    what = "gateways" if gateway else "replicas"
    raise NoRoomError(f"a local mesh has room for {len(numbers)} {what}: lower spec.replicas in the manifests")


def assign_vips(services: Iterable[ServiceName], network: IPv4Network) -> dict[tuple[str, str], str]:
    """An address for each Service that is not headless, by (namespace, name): by hash, so that it hardly ever moves."""
    vips: dict[tuple[str, str], str] = {}
    used: set[int] = set()
    for namespace, name in sorted((s.namespace, s.name) for s in services if not s.headless):
        start = zlib.crc32(f"{namespace}/{name}".encode()) % VIPS
        number = next((n for i in range(VIPS) if (n := FIRST_VIP + (start + i) % VIPS) not in used), None)
        if number is None:
            raise NoRoomError(f"a local mesh has room for {VIPS} services")
        used.add(number)
        vips[namespace, name] = str(network.network_address + number)
    return vips


def hosts_file(vips: Mapping[tuple[str, str], str], namespace: str, own_name: str, own_address: str) -> str:
    """/etc/hosts of a replica in `namespace`: what Kubernetes' DNS would answer."""
    lines = ["127.0.0.1 localhost", "::1 localhost", f"{own_address} {own_name}"]
    for (service_namespace, name), vip in sorted(vips.items()):
        names = [
            f"{name}.{service_namespace}.svc.cluster.local",
            f"{name}.{service_namespace}.svc",
            f"{name}.{service_namespace}",
        ]
        if service_namespace == namespace:
            names.append(name)
        lines.append(f"{vip} {' '.join(names)}")
    return "\n".join(lines) + "\n"
