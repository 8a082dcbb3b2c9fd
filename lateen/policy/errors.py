"""The one exception of this package."""


class PolicyError(ValueError):
    """A policy that cannot be compiled; the text names the policy and the field. Whoever catches it must deny."""
