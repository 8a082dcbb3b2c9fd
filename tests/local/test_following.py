from dataclasses import replace

from lateen.local.following import keep_running_proxies
from lateen.local.plan import Container, Plan, Workload, WorkloadKind


def _workload(namespace: str, name: str, log_name: str, replicas: int = 1) -> Workload:
    return Workload(name, namespace, WorkloadKind.SIDECAR, replicas, {}, "default", log_name=log_name)


def test_a_running_workload_changes_its_number_only() -> None:
    running = _workload("b", "web", "web")
    wanted = replace(running, replicas=3, service_account="other")
    (kept,) = keep_running_proxies(Plan((running,)), Plan((wanted,))).workloads
    assert kept == replace(running, replicas=3)


def test_a_running_workload_gets_other_commands_unless_its_proxy_would_change() -> None:
    running = _workload("b", "web", "web")
    wanted = replace(running, containers=(Container("web", ("new",), "."),))
    assert keep_running_proxies(Plan((running,)), Plan((wanted,))).workloads == (wanted,)
    other = replace(wanted, listen_ports=(81,))
    assert keep_running_proxies(Plan((running,)), Plan((other,))).workloads == (running,)


def test_a_new_workload_takes_no_name_of_a_running_one() -> None:
    """Logs and processes have these names: b/web's are in use, whether it stays or goes."""
    running = Plan((_workload("b", "web", "web"),))
    new = _workload("a", "web", "web")
    both = keep_running_proxies(running, Plan((new, _workload("b", "web", "web.b"))))
    assert [w.log_name for w in both.workloads] == ["web.a", "web"]
    alone = keep_running_proxies(running, Plan((new,)))
    assert [w.log_name for w in alone.workloads] == ["web.a"]
