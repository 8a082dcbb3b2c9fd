"""The test kit: filters as plain Python against a fake host, or as the linked module in a real Envoy. One suite, two hosts.

Imported as `lateen_filter.testing`. It never gets into a module: the build leaves it out, and neither the SDK nor the library
imports it. `fake` does what Envoy and Proxy-Wasm do, in Python; `envoy` builds, starts and asks the real thing.
"""
