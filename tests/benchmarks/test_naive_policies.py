"""The two evaluators that the benchmark of decisions compares answer alike, and its questions have both answers."""

import pytest

from benchmarks.decisions import policies, requests
from benchmarks.naive_policies import allowed
from extauthz.decide import Verdict, decide
from lateen.mesh.authorizationpolicy import AuthorizationPolicySpec
from lateen.policy.compile import AttachedPolicy, PolicyOrigin, compile_policies


@pytest.mark.parametrize("count", [1, 3, 60])
def test_the_compared_evaluators_agree(count: int) -> None:
    specs = policies(count)
    compiled = compile_policies([AttachedPolicy(PolicyOrigin("bench", str(i)), spec) for i, spec in enumerate(specs)])
    answers = []
    for request in requests(count):
        answers.append(allowed(specs, request))
        assert (decide(compiled, request).verdict is Verdict.ALLOW) == answers[-1]
    assert answers[0]
    assert not answers[-1]


def test_the_naive_evaluator_refuses_what_it_does_not_know() -> None:
    spec = AuthorizationPolicySpec.model_validate({"rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}]})
    with pytest.raises(AssertionError):
        allowed([spec], requests(1)[0])
