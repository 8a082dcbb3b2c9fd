"""The certificate authority: issues short-lived workload certificates over Istio's certificate signing API.

The core (`root`, `signing`, `issue`, `tokens`, `authority`) is pure: it takes bytes and `now`, and returns values. `store` keeps the
root on disk, `front` terminates TLS, `server` speaks gRPC, `admin` HTTP on a unix socket. Knows nothing of proxies or policies;
nobody imports it but the command line. `ca.sds` is a library of its own, used by `lateen.agent`.
"""
