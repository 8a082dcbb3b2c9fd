"""What every enforcement point shares: policies compiled to a PolicySet, verified claims in one shape, rate limit descriptors.

Pure: no I/O, clock, environment, asyncio, grpc or redis. Imported by `extauthz`, `ratelimit`, `lateen.controlplane` and the command.
"""
