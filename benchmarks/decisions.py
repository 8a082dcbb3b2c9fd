"""`extauthz.decide` over compiled policies, against evaluating the same policies from their models on every request."""

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.naive_policies import allowed
from benchmarks.report import Section, Table, number, with_range
from benchmarks.timing import cpu_per_call
from extauthz.decide import Verdict, decide
from lateen.mesh.authorizationpolicy import AuthorizationPolicySpec
from lateen.policy.compile import AttachedPolicy, PolicyOrigin, compile_policies
from lateen.policy.request import CheckInput

SIZES = (1, 100, 1000)
COMPILED, NAIVE = "compiled", "naive"


def policies(count: int) -> list[AuthorizationPolicySpec]:
    """Policies as large meshes have them: who, which methods and paths, every third with a header condition, one in fifty denying."""
    made = []
    for index in range(count):
        source = (
            {"namespaces": [f"team-{index}"]}
            if index % 4 == 3
            else {"principals": [f"cluster.local/ns/team-{index}/sa/client"]}
        )
        operation = {"methods": ["GET", "POST"], "paths": [f"/v1/service-{index}/*", "/healthz"]}
        rule: dict[str, object] = {"from": [{"source": source}], "to": [{"operation": operation}]}
        if index % 3 == 2:
            rule["when"] = [{"key": "request.headers[x-tenant]", "values": ["acme", "globex"]}]
        action = "DENY" if index % 50 == 49 else "ALLOW"
        made.append(AuthorizationPolicySpec.model_validate({"action": action, "rules": [rule]}))
    return made


def requests(count: int) -> list[CheckInput]:
    """Requests that the first, the middle and the last policy but one speak of, and one that none does."""
    spoken_of = sorted({0, count // 2, max(0, count - 2)})
    known = [_request(f"team-{index}", f"/v1/service-{index}/items") for index in spoken_of]
    return [*known, _request("stranger", "/v1/service-0/items")]


def _request(namespace: str, path: str) -> CheckInput:
    return CheckInput(
        http=True,
        principal=f"spiffe://cluster.local/ns/{namespace}/sa/client",
        method="GET",
        path=path,
        headers={"x-tenant": "acme", "user-agent": "benchmark", "accept": "*/*"},
    )


def _each(answer: Callable[[CheckInput], object], asked: Sequence[CheckInput]) -> None:
    for request in asked:
        answer(request)


def measure(*, quick: bool) -> Section:
    """Ask both the same questions; AssertionError when they do not answer the same."""
    rows = []
    data = {}
    for count in SIZES:
        specs = policies(count)
        asked = requests(count)
        compiled = compile_policies([AttachedPolicy(PolicyOrigin("bench", f"p{i}"), s) for i, s in enumerate(specs)])
        for request in asked:
            assert (decide(compiled, request).verdict is Verdict.ALLOW) == allowed(specs, request), request

        cases: dict[str, Callable[[], object]] = {
            COMPILED: partial(_each, partial(decide, compiled), asked),
            NAIVE: partial(_each, partial(allowed, specs), asked),
        }
        found = cpu_per_call(cases, rounds=3 if quick else 7, seconds=0.02 if quick else 0.15)
        each = {name: value.scaled(1 / len(asked)) for name, value in found.items()}
        ratio = each[COMPILED].median / each[NAIVE].median
        rows.append((str(count), with_range(each[COMPILED]), with_range(each[NAIVE]), number(ratio)))
        data[str(count)] = {**{name: value.as_dict() for name, value in each.items()}, "ratio": ratio}
    table = Table(("policies", "decide(), us", "naive evaluator, us", "ratio"), tuple(rows))
    notes = (
        "CPU us a decision, median (min..max), mean of requests for the first, a middle and a late policy and of one that nothing matches",
        "naive evaluator: benchmarks/naive_policies.py, the models interpreted for every request; both gave the same answers",
    )
    return Section("decisions", "authorization decision, against a naive evaluator", (table,), notes, data)
