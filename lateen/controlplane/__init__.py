"""The xDS management server: MeshView to Envoy resources, snapshots, sessions, ADS, status, apply API.

Translators (names, clusters, listeners, routes, ...) are pure: values in, protobuf messages out; they know no grpc, clock, logger or
environment.
Only the command line and the local runner may import this package; the services meet it on the wire.
"""
