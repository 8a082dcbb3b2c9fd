"""Builds the authority from its settings and runs it until SIGTERM."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ca.admin import admin_app, public_app, remove_sockets
from ca.authority import Authority
from ca.front import TlsFront
from ca.identity import Identity
from ca.issue import chain_pem, issue_certificate
from ca.root import RootError
from ca.server import CertificateService, grpc_server
from ca.settings import Settings, parse_settings
from ca.store import load_or_create_root
from lateen.clock import Clock, SystemClock
from lateen.process import allow_many_files, configure_logs
from lateen.web import listen_on, private_socket, web_server

SERVICE_ACCOUNT = "lateen-ca"
_DRAIN_SECONDS = 1.0
_EXIT_UNUSABLE = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 after SIGTERM or Ctrl-C, 3 when the root or an address cannot be used."""
    settings = parse_settings(sys.argv[1:] if arguments is None else arguments)
    if settings.print_config:
        sys.stdout.write(settings.render() + "\n")
        return 0
    configure_logs(settings.log_level, settings.log_format)
    allow_many_files()
    try:
        asyncio.run(serve(settings, SystemClock()))
    except KeyboardInterrupt:
        return 0
    except (RootError, OSError) as error:
        structlog.get_logger().error("certificate authority cannot start", reason=str(error))
        return _EXIT_UNUSABLE
    return 0


async def serve(settings: Settings, clock: Clock) -> None:
    """Run until SIGTERM or SIGINT, then drain."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    log = structlog.get_logger()
    root, created = load_or_create_root(settings.state_dir, settings.trust_domain, clock.now())
    log.info("root created" if created else "root loaded", not_after=root.anchor.not_valid_after_utc.isoformat())
    authority = Authority(root=root, trust_domain=settings.trust_domain, lifetime=settings.ttl)
    front = TlsFront(settings.admin_socket.with_name(f"{settings.admin_socket.name}.tls"))
    _certify(front, authority, settings, clock)
    # The TLS port first: whoever holds it may take over the unix sockets that another left behind.
    bound = await front.start(*settings.listen)
    server = grpc_server(CertificateService(authority, front.peer_certificate, clock), front.inner_socket)
    try:
        await server.start()
        listeners = [private_socket(settings.admin_socket)]
        webs = [web_server(admin_app(authority, clock))]
        if settings.http_address:
            listeners.append(listen_on(settings.http_address))
            webs.append(web_server(public_app(authority, clock)))
        tasks = [
            asyncio.create_task(web.serve(sockets=[listener])) for web, listener in zip(webs, listeners, strict=True)
        ]
        renewal = asyncio.create_task(_keep_certified(front, authority, settings, clock))
        log.info(
            "certificate authority listens", address=f"{settings.listen[0]}:{bound}", admin=str(settings.admin_socket)
        )
        await stopped.wait()
        log.info("certificate authority stops")
        renewal.cancel()
        for web in webs:
            web.should_exit = True
        await asyncio.gather(*tasks, renewal, return_exceptions=True)
        for listener in listeners:
            listener.close()
    finally:
        await server.stop(_DRAIN_SECONDS)
        await front.close()
        remove_sockets(settings.admin_socket, front.inner_socket)


async def _keep_certified(front: TlsFront, authority: Authority, settings: Settings, clock: Clock) -> None:
    """Renew our own serving certificate at half of its life."""
    while True:
        await clock.sleep(_serving_lifetime(settings).total_seconds() / 2)
        try:
            _certify(front, authority, settings, clock)
        except (ValueError, OSError) as error:
            structlog.get_logger().error("own serving certificate could not be renewed", reason=str(error))


def _certify(front: TlsFront, authority: Authority, settings: Settings, clock: Clock) -> None:
    """Issue ourselves a serving certificate for `lateen-ca.<root namespace>.svc`."""
    key = ec.generate_private_key(ec.SECP256R1())
    identity = Identity(settings.root_namespace, SERVICE_ACCOUNT, (f"{SERVICE_ACCOUNT}.{settings.root_namespace}.svc",))
    leaf = issue_certificate(
        authority.root, key.public_key(), identity, settings.trust_domain, clock.now(), _serving_lifetime(settings)
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = chain_pem(leaf, authority.root)
    front.configure("".join(chain), key_pem, "".join(chain[1:]))


def _serving_lifetime(settings: Settings) -> timedelta:
    return max(settings.ttl, timedelta(hours=1))
