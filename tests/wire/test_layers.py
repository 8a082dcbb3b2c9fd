"""import-linter keeps the core of lateen.wire free of I/O; here, that no module is forgotten in its contract."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
AROUND = {"carriers", "front", "metrics", "pump", "server", "tls", "transport", "workers"}


def test_every_module_is_in_the_contract_of_the_core_or_does_io() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    core = next(set(each["source_modules"]) for each in contracts if each["name"].startswith("lateen.wire's core"))
    modules = {path.stem for path in (ROOT / "lateen" / "wire").glob("*.py")} - {"__init__"}
    assert modules - AROUND == {name.removeprefix("lateen.wire.") for name in core}
