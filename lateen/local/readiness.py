"""Whether the application of each replica serves, and what to say of one that does not.

As in Kubernetes, a replica gets traffic only when it serves: its WorkloadEntry is registered as unhealthy until then, and again once one
of its processes has ended. What crashes is started again and holds up nobody else.
"""

import http.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lateen.local import commands, sockets
from lateen.local.appstate import AppState
from lateen.local.commands import Site
from lateen.local.placement import Replica
from lateen.local.plan import Container
from lateen.local.supervisor import ProcessState

CONNECT_SECONDS = 0.5
# How long an application may take to listen before we go on without it; ports beside one that it listens on are waited for as long.
LISTEN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a replica stands. `detail` is one line for people, `process` the one whose log tells more, `pids` what it was looked at."""

    state: AppState
    detail: str = ""
    process: str = ""
    pids: tuple[int, ...] = ()
    note: str = ""
    """A word about a replica that serves all the same."""

    @property
    def serves(self) -> bool:
        """Whether it should get traffic."""
        return self.state is AppState.RUNNING

    @property
    def hopeless(self) -> bool:
        """Whether there is no point in waiting for it."""
        return self.state in {AppState.CRASHING, AppState.NOT_LISTENING}

    def __str__(self) -> str:
        return f"{self.state}: {self.detail}" if self.detail else str(self.state)


STARTING = Standing(AppState.STARTING)


def processes(replica: Replica) -> list[tuple[Container, str]]:
    """The containers of a replica with their process ids in the supervisor."""
    return [(container, commands.app_process_id(replica, container)) for container in replica.workload.containers]


def look(site: Site, replica: Replica, states: Mapping[str, ProcessState], *, with_proxy: bool) -> Standing:
    """How a replica stands now; `states` are those of its processes. May take CONNECT_SECONDS.

    `with_proxy`: its Envoy has to be ready, too.
    """
    pids = tuple(states[name].pid for _, name in processes(replica))
    notes = []
    for container, name in processes(replica):
        state = states[name]
        silent = [port for port in container.ports if not sockets.listens(state.pid, replica.app_address, port)]
        if state.pid and not silent:
            continue
        if state.crashing:
            return Standing(AppState.CRASHING, f"{state.detail}, {state.failures} times so far", name, pids)
        if not state.pid:
            return Standing(AppState.STARTING, f"{container.name} does not run yet", name, pids)
        detail = _silence(site, replica, container, silent, state.pid)
        if state.seconds < LISTEN_SECONDS:
            return Standing(AppState.STARTING, detail, name, pids)
        if len(silent) == len(container.ports):
            return Standing(AppState.NOT_LISTENING, detail, name, pids)
        notes.append(detail)
    if with_proxy and (waiting := proxy_not_ready(replica)):
        return Standing(AppState.STARTING, waiting, f"{replica.log_name}.envoy", pids)
    return Standing(AppState.RUNNING, pids=pids, note=", ".join(notes))


def _silence(site: Site, replica: Replica, container: Container, silent: Sequence[int], pid: int) -> str:
    """Where nobody listens, and what the application has done instead, when that explains it."""
    text = f"{container.name} does not listen on port {' and '.join(map(str, silent))}"
    instead = [listener for listener in sockets.own_listeners(pid) if not listener.serves(replica.app_address)]
    if not instead:
        return text
    hint = "" if site.mode == commands.NETNS else f": let it listen on $HOST (here {replica.app_address}) and $PORT"
    return f"{text} but on {', '.join(map(str, instead))}{hint}"


def proxy_not_ready(replica: Replica) -> str:
    """Why the replica's Envoy cannot serve yet; empty when it can."""
    url = f"http://{replica.address}:{commands.READY_PORT}/healthz/ready"
    return "" if answers_200(url) else f"its Envoy is not ready ({url})"


def answers_200(url: str) -> bool:
    """Whether GET of `http://host:port/path` gives 200."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=CONNECT_SECONDS)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().status == 200  # noqa: PLR2004
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
