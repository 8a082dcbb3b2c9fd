"""The rate limit service: Envoy's `RateLimitService/ShouldRateLimit` over Redis.

Knows limits only as the control plane resolved them (`WorkloadLimits`, by ADS); knows nothing of policies, selectors or YAML.
Pure: `limits.py` (what to count), `window.py` (which window), `answer.py` (the response). I/O: `redis_store.py`, `server.py`.
Imported by nobody; run as `python -m ratelimit`.
"""
