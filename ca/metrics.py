"""The authority's numbers under Istio's names, as Prometheus text. Names are Istio's to the letter, so no `_total` is added."""

from datetime import datetime

from ca.authority import Authority

_COUNTERS = (
    ("citadel_server_csr_count", "csr", "certificate signing requests received"),
    ("citadel_server_csr_parsing_err_count", "csr_parsing_error", "requests that were malformed or not allowed"),
    ("citadel_server_csr_sign_err_count", "csr_sign_error", "requests that the root could not sign"),
    ("citadel_server_authentication_failure_count", "authentication_failure", "requests without valid credentials"),
    ("citadel_server_id_extraction_err_count", "id_extraction_error", "client certificates that name no workload"),
    ("citadel_server_success_cert_issuance_count", "success", "certificates issued"),
)


def render_metrics(authority: Authority, now: datetime) -> str:
    """Everything, in Prometheus' text format."""
    lines = []
    for name, count, text in _COUNTERS:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} counter", f"{name} {authority.counts[count]}"]
    for subject, certificate in (("root_cert", authority.root.anchor), ("cert_chain", authority.root.issuer)):
        expiry = certificate.not_valid_after_utc
        for unit, value in (("timestamp", expiry.timestamp()), ("seconds", (expiry - now).total_seconds())):
            name = f"citadel_server_{subject}_expiry_{unit}"
            lines += [f"# HELP {name} expiry of the {subject}", f"# TYPE {name} gauge", f"{name} {value:.0f}"]
    name = "lateen_ca_join_tokens"
    lines += [
        f"# HELP {name} join tokens waiting to be used",
        f"# TYPE {name} gauge",
        f"{name} {len(authority.tokens)}",
    ]
    return "\n".join(lines) + "\n"
