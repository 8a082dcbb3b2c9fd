"""The same handlers on a grpcio server: the other transport of our services, and what `lateen.wire` is compared with in tests.

Only `server` may import grpc. Imported by `extauthz` and `ratelimit` when they are told `--transport grpcio`.
"""
