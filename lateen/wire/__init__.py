"""Unary gRPC over HTTP/2 for the hot services: a sans-IO core (`connection`), a thin asyncio pump (`server`), worker processes.

Handlers are bytes in, bytes out, by method path. Knows nothing of policies, limits or Envoy, and nothing of grpcio: any correct
gRPC client is served. Imported by `extauthz` and `ratelimit`. Every buffer, table and rate is bounded by `limits.Limits`.
"""
