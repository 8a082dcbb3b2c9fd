"""What our own services need to be clients of the control plane: delta ADS (`client`) and certificates by SDS (`tls`).

Knows nothing of policies or limits; imported by `extauthz`, `ratelimit` and the control plane.
"""
