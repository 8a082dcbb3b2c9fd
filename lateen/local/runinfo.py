"""What run.json says about a mesh. Pure."""

from collections.abc import Mapping, Sequence

from lateen.local import commands, netns, registration
from lateen.local.commands import Site
from lateen.local.placement import Replica
from lateen.local.readiness import Standing
from lateen.local.rundir import ReplicaInfo, RunInfo


def run_info(site: Site, pid: int, replicas: Sequence[Replica], standings: Mapping[str, Standing]) -> RunInfo:
    """The contents of run.json; `pid` is the runner's."""
    plain, secure = _gateway_urls(replicas)
    return RunInfo(
        id=site.run.id,
        pid=pid,
        directory=str(site.directory),
        mode=site.mode,
        control_plane=f"unix://{site.run.api_socket}",
        logs=str(site.run.logs),
        trust_domain=site.trust_domain,
        gateway_url=plain,
        gateway_https_url=secure,
        gateway_ca=str(site.gateway_ca),
        issuer_keys=str(site.issuer_keys),
        issuers=tuple(issuer.issuer for issuer in site.issuers),
        addresses={name: site.host(number) for name, _, _, number in registration.OWN_SERVICES},
        replicas=tuple(_replica_info(site, replica, standings[replica.key]) for replica in replicas),
    )


def _replica_info(site: Site, replica: Replica, standing: Standing) -> ReplicaInfo:
    workload = replica.workload
    return ReplicaInfo(
        name=replica.name,
        namespace=workload.namespace,
        workload=workload.name,
        kind=workload.kind.value,
        address=replica.address,
        app_address=replica.app_address,
        service_account=workload.service_account,
        proxy_url="" if replica.is_gateway else commands.proxy_url(replica),
        netns=netns.namespace_name(site.run.id, replica) if site.mode == commands.NETNS else "",
        ports={str(port): port for port in workload.listen_ports},
        app="" if replica.is_gateway else str(standing.state),
    )


def _gateway_urls(replicas: Sequence[Replica]) -> tuple[str, str]:
    """The first plain and the first HTTPS port of the first gateway."""
    for replica in replicas:
        if replica.is_gateway:
            protocols = dict(replica.workload.gateway_protocols)
            plain = next((port for port, tls in protocols.items() if not tls), None)
            secure = next((port for port, tls in protocols.items() if tls), None)
            return (
                f"http://{replica.address}:{plain}" if plain else "",
                f"https://{replica.address}:{secure}" if secure else "",
            )
    return "", ""
