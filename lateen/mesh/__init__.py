"""The vocabulary of the mesh: resource models, loading with source positions, diagnostics, selectors, identities and `MeshView`.

Pure: it knows no grpc, redis, HTTP, asyncio, clock or environment. Every package above may import it, except the agent, which stays small.
"""
