"""Files and documents to resources."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lateen.mesh.diagnostics import Severity
from lateen.mesh.loader import load_mesh_config, load_paths, load_text
from lateen.mesh.problems import MAX_FINDINGS

VS = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: b}\nspec: {hosts: [x]}\n"
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}], sessionAffinity: None, selector: null}\n"


def test_resources_and_keys() -> None:
    loaded = load_text(VS + "---\n" + SERVICE + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n", "x")
    assert [str(r.resource.key) for r in loaded.resources] == ["VirtualService/b/a", "Service/default/a", "Namespace/b"]
    assert loaded.diagnostics == ()
    assert loaded.resources[1].source.position(("spec",)).line == 9


def test_the_two_gateways_are_two_kinds() -> None:
    istio = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec: {}\n"
    kubernetes = (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\n"
        "spec: {gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP}]}\n"
    )
    keys = [r.resource.key.kind for r in load_text(istio + "---\n" + kubernetes, "x").resources]
    assert keys == ["IstioGateway", "Gateway"]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    text = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  lables: {a: b}
spec:
  gatways: [mesh]
  hosts: [on]
  http:
  - timeout: 5
    retries: {attempts: "3", perTryTimeout: 2x}
    mirror: {hots: a}
    mirorr: {}
"""
    loaded = load_text(text, "x")
    assert [(d.line, d.column, d.code, d.path) for d in loaded.diagnostics] == [
        (5, 3, "LTN0104", "metadata.lables"),
        (8, 11, "LTN0106", "spec.hosts[0]"),
        (10, 5, "LTN0106", "spec.http[0].timeout"),
        (11, 15, "LTN0106", "spec.http[0].retries.attempts"),
        (11, 30, "IST0106", "spec.http[0].retries.perTryTimeout"),
        (12, 14, "LTN0104", "spec.http[0].mirror.hots"),
        (13, 5, "LTN0104", "spec.http[0].mirorr"),
        (7, 3, "LTN0104", "spec.gatways"),
    ]
    assert loaded.resources == ()


def test_an_unknown_field_does_not_hide_a_violated_rule() -> None:
    text = VS.replace("{hosts: [x]}", "{hosts: [x], http: [{match: [{uri: {exact: a, prefix: b, exat: c}}]}]}")
    assert {d.code for d in load_text(text, "x").diagnostics} == {"LTN0104", "LTN0108"}


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        (
            "{http: [{route: [{destination: {host: a}, timeout: 1s}]}]}",
            "timeout is a field of spec.http[0]: check the indentation",
        ),
        ("{gateway: [a]}", 'did you mean "gateways"?'),
        ("{http: [{fixedDelay: 1s}]}", "known fields: corsPolicy, "),
        ("{http: [{fault: {fixedDelay: 1s}}]}", "fixedDelay is a field of delay"),
        ("{http: [{allowOrigins: []}]}", "allowOrigins is a field of corsPolicy"),
    ],
)
def test_where_an_unknown_field_belongs(spec: str, hint: str) -> None:
    (found,) = load_text(VS.replace("{hosts: [x]}", spec), "x").diagnostics
    assert found.hint.startswith(hint)


def test_names_that_people_try() -> None:
    text = "apiVersion: lateen.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: a}\nspec: {limits: [{name: a, requests: 1, unit: second}]}\n"
    assert [d.hint for d in load_text(text, "x").diagnostics] == ['did you mean "per"?']


def test_a_misspelt_field_is_not_also_missing() -> None:
    entry = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\nspec: {adress: 1.2.3.4}\n"
    assert [d.code for d in load_text(entry, "x").diagnostics] == ["LTN0104"]
    rule = entry.replace("WorkloadEntry", "DestinationRule").replace("adress", "hots")
    assert [d.code for d in load_text(rule, "x").diagnostics] == ["LTN0104"]


def test_a_list_object_is_its_items() -> None:
    indented = VS.replace("\n", "\n    ").rstrip()
    text = f"apiVersion: v1\nkind: List\nitems:\n  - {indented}\n  - {indented.replace('name: a', 'name: c').replace('hosts', 'hostz')}\n"
    loaded = load_text(text, "x")
    assert [str(r.resource.key) for r in loaded.resources] == ["VirtualService/b/a"]
    assert [(d.line, d.path, d.resource) for d in loaded.diagnostics] == [(11, "spec.hostz", "VirtualService/b/c")]
    assert loaded.resources[0].source.position(("spec", "hosts")).line == 7


def test_a_wrong_version_does_not_hide_what_else_is_wrong() -> None:
    text = VS.replace("io/v1", "io/v9").replace("hosts", "hostz")
    assert [d.code for d in load_text(text, "x").diagnostics] == ["LTN0102", "LTN0104"]


def test_secrets_are_not_shown() -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {password: 123456}\n"
    (found,) = load_text(text, "x").diagnostics
    assert (found.line, found.column, found.path) == (4, 8, "data.password")
    assert "123456" not in str(found.to_dict())
    good = load_text(text.replace("123456", "aHVudGVyMg=="), "x").resources[0].resource
    assert "aHVudGVyMg" not in repr(good)


def test_findings_are_bounded() -> None:
    loaded = load_text("---\nkind: VirtualService\n" * (MAX_FINDINGS + 50), "x")
    assert len(loaded.diagnostics) == MAX_FINDINGS + 1
    assert loaded.diagnostics[-1].code == "LTN0003"


def test_hostile_documents_are_told_briefly() -> None:
    many = ", ".join(f"k{n}x: 1" for n in range(20_000))
    long = "y" * 100_000
    for body in (
        f"{{{many}}}",
        f"{{{long}: 1}}",
        f"{{hosts: [{', '.join('1' * 30_000)}]}}",
        f"{{http: [{{name: {long}, {long}: 1}}]}}",
    ):
        started = time.monotonic()
        loaded = load_text(VS.replace("{hosts: [x]}", body), "x")
        assert loaded.invalid
        assert len(loaded.diagnostics) <= MAX_FINDINGS + 1
        assert sum(len(str(d.to_dict())) for d in loaded.diagnostics) < 2_000_000
        assert time.monotonic() - started < 30


def test_directories(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text(VS)
    (tmp_path / "b.yml").write_text(SERVICE)
    (tmp_path / "c.json").write_text('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}')
    (tmp_path / "notes.txt").write_text("not: [yaml")
    (tmp_path / ".git" / "x.yaml").write_text("not: [yaml")
    (tmp_path / "mesh.yaml").write_text("trustDomain: corp.example\n")
    (tmp_path / "lateen.yaml").write_text("images: {}\n")
    loaded = load_paths([tmp_path])
    assert loaded.diagnostics == ()
    assert sorted(str(r.resource.key) for r in loaded.resources) == [
        "Namespace/b",
        "Service/default/a",
        "VirtualService/b/a",
    ]
    assert loaded.mesh is not None
    assert loaded.mesh.trust_domain == "corp.example"
    assert loaded.resources[0].source.file.startswith(str(tmp_path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "a.yaml"
    binary.write_bytes(b"a: \xff\xfe\n")
    missing = tmp_path / "b.yaml"
    codes = [(d.code, d.file, d.severity, d.invalid) for d in load_paths([binary, missing]).diagnostics]
    assert codes == [("LTN0004", str(binary), Severity.ERROR, True), ("LTN0004", str(missing), Severity.ERROR, True)]


def test_mesh_config_plain_and_wrapped() -> None:
    plain, found = load_mesh_config("trustDomain: a\npathNormalization: {normalization: MERGE_SLASHES}\n", "mesh.yaml")
    wrapped, found_too = load_mesh_config(
        "apiVersion: lateen.dev/v1alpha1\nkind: MeshConfig\nspec: {trustDomain: a}\n", "m"
    )
    assert (plain.trust_domain, wrapped.trust_domain) == ("a", "a")
    assert found == found_too == ()


def test_mesh_config_errors_have_positions() -> None:
    mesh, found = load_mesh_config("accessLogFile: /dev/stdout\ntrustDomian: a\n", "mesh.yaml")
    assert mesh.trust_domain == "cluster.local"
    assert [(d.code, d.line, d.hint) for d in found] == [("LTN0104", 2, 'did you mean "trustDomain"?')]
    _, two = load_mesh_config("trustDomain: a\n---\ntrustDomain: b\n", "mesh.yaml")
    assert [(d.code, d.line) for d in two] == [("LTN0005", 3)]
    wrapped = "apiVersion: lateen.dev/v1alpha1\nkind: MeshConfig\nspecs: {}\nspec: {trustDomain: 5}\n"
    assert {(d.code, d.line) for d in load_mesh_config(wrapped, "m")[1]} == {("LTN0104", 3), ("LTN0106", 4)}


def test_an_empty_mesh_config_is_the_default() -> None:
    mesh, found = load_mesh_config("", "mesh.yaml")
    assert (mesh.root_namespace, mesh.enable_auto_mtls, found) == ("istio-system", True, ())


def test_what_was_written_is_written_back() -> None:
    text = VS.replace("[x]", "[x], http: [{timeout: 1m30s, route: [{destination: {host: a}, weight: 1}]}]")
    assert load_text(text, "x").resources[0].resource.to_dict() == {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "a", "namespace": "b"},
        "spec": {"hosts": ["x"], "http": [{"timeout": "90s", "route": [{"destination": {"host": "a"}, "weight": 1}]}]},
    }


def test_the_table_of_kinds_does_not_import_pydantic() -> None:
    """`lateen --help` must be fast: kinds, diagnostics and rendering are free of the models."""
    script = "import sys, lateen.mesh.kinds, lateen.mesh.diagnostics, lateen.mesh.render; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
