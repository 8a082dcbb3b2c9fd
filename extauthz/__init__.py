"""The external authorization service: AuthorizationPolicy and RequestAuthentication, decided for Envoy's ext_authz filters.

An ADS client of the control plane (policies arrive as WorkloadPolicy) and a gRPC server for the proxies. Imported by nothing but the
command; it never imports another service.
"""
