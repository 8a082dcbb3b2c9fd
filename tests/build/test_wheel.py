"""The wheel, built from the sdist as a packager would, and used from an environment of its own."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# One worker builds it, once (`pytest -n 2 --dist loadgroup`).
pytestmark = [pytest.mark.xdist_group("wheel"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: the development environment has the build requirements, and nothing is fetched.
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; everything else is borrowed from ours, whose editable `lateen` is not visible there."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # Path files in a folder that a path file adds are not read, so the editable install's is not.
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_it_has_the_generated_and_typed_package_and_no_build_tools(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "lateen/envoyapi/envoy/service/discovery/v3/ads_pb2_grpc.pyi" in names
    assert "lateen/py.typed" in names
    assert not [name for name in names if name.endswith((".pyc", ".stamp"))]
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} <= {
        "lateen", "extauthz", "ratelimit", "ca", "filters", "lateen_filter",
    }  # fmt: skip


def test_the_installed_wheel_is_the_one_that_runs(environment: Path) -> None:
    program = (
        "import lateen, sys; from lateen.envoyapi.envoy.config.cluster.v3.cluster_pb2 import Cluster;"
        "from lateen.envoyapi.istio.v1.auth import ca_pb2_grpc; from lateen.envoy_binary import envoy_path;"
        "assert lateen.__file__.startswith(sys.prefix), lateen.__file__;"
        "assert Cluster.FromString(Cluster(name='a').SerializeToString()).name == 'a';"
        "assert envoy_path().is_file(); print(lateen.__version__)"
    )
    assert _run(environment / "bin" / "python", "-c", program, cwd=environment).strip()


@pytest.mark.skipif(not (ROOT / "lateen" / "cli" / "main.py").exists(), reason="the command does not exist yet")
def test_the_command_starts(environment: Path) -> None:
    version = _run(environment / "bin" / "python", "-c", "import lateen; print(lateen.__version__)", cwd=environment)
    assert version.strip() in _run(environment / "bin" / "lateen", "version", cwd=environment)


def _run(*command: str | Path, cwd: Path = ROOT) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout
