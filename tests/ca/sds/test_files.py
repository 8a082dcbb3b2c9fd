from pathlib import Path

import pytest

from ca.sds.files import FileSecretError, FileSecrets
from ca.sds.secrets import Certificate, Roots

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    directory = tmp_path / "secrets"
    directory.mkdir()
    for name in ("chain.pem", "key.pem", "root.pem"):
        (directory / name).write_text(PEM + name)
    return directory


def test_istios_names_are_read(allowed: Path) -> None:
    files = FileSecrets((allowed,))
    pair = files.load(f"file-cert:{allowed}/chain.pem~{allowed}/key.pem")
    assert pair == Certificate((PEM + "chain.pem").encode(), (PEM + "key.pem").encode())
    assert files.load(f"file-root:{allowed}/root.pem") == Roots((PEM + "root.pem").encode())


@pytest.mark.parametrize(
    "name",
    [
        "file-cert:{dir}/chain.pem",
        "file-cert:{dir}/chain.pem~{dir}/key.pem~{dir}/root.pem",
        "file-cert:chain.pem~key.pem",
        "file-root:",
        "file-root:{dir}/\0",
        "file-root:{dir}/absent.pem",
        "file-root:{dir}",
        "file-root:{dir}/../outside.pem",
        "file-root:{dir}/link.pem",
        "file-root:/etc/passwd",
        "file-root:{dir}/text.pem",
    ],
)
def test_what_is_malformed_outside_or_no_pem_is_refused(allowed: Path, name: str) -> None:
    outside = allowed.parent / "outside.pem"
    outside.write_text(PEM)
    (allowed / "link.pem").symlink_to(outside)
    (allowed / "text.pem").write_text("password")
    name = name.format(dir=allowed)
    with pytest.raises(FileSecretError) as refused:
        FileSecrets((allowed,)).load(name)
    assert "password" not in str(refused.value)
    assert FileSecrets((allowed,)).signature(name) == () or name.endswith(("secrets", "text.pem"))


def test_without_directories_there_are_no_file_secrets(allowed: Path) -> None:
    with pytest.raises(FileSecretError, match="secret_dirs"):
        FileSecrets().load(f"file-root:{allowed}/root.pem")


def test_the_signature_changes_with_the_file(allowed: Path) -> None:
    files, name = FileSecrets((allowed,)), f"file-root:{allowed}/root.pem"
    before = files.signature(name)
    (allowed / "root.pem").write_text(PEM + "longer than before")
    assert files.signature(name) != before != ()
