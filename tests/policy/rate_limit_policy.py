"""A RateLimitPolicy that uses everything, as a value."""

import yaml

from lateen.mesh.ratelimitpolicy import RateLimitPolicy

POLICY = """
apiVersion: lateen.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: charge, namespace: payments}
spec:
  failureMode: deny
  limits:
  - name: per-tenant
    match:
      paths: [/v1/charge, /v1/refunds/*]
      methods: [POST]
      headers: [{name: X-Beta, present: true}, {name: x-plan, exact: a.b}, {name: x-internal, present: false}]
    descriptors:
    - header: {name: X-Tenant}
    - path: {}
    - sourcePrincipal: {}
    - claim: {name: realm.tenant}
    - remoteAddress: {}
    - value: fixed
    requests: 5
    per: second
  - name: all
    requests: 1000
    per: minute
    shadow: true
"""


def policy(text: str = POLICY) -> RateLimitPolicy:
    """The policy of a YAML text."""
    return RateLimitPolicy.model_validate(yaml.safe_load(text))
