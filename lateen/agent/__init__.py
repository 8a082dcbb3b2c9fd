"""The agent stands beside the Envoys of a host: makes their keys, has them certified, serves them over SDS, writes their bootstraps.

One process serves many proxies, each on a unix socket of its own that knows only its identity. Keys and certificates live in memory
and nowhere else. Stays small: no resource models, no pydantic, nothing of the authority but the library `ca.sds`. Imported by nobody
but the command line.
"""
