"""Lateen: Istio's API on stock Envoy.

What every process of ours shares is in the subpackages; `lateen.clock` and `lateen.envoy_binary` are leaf modules that anyone may import.
"""

from importlib.metadata import version

__version__ = version("lateen")
