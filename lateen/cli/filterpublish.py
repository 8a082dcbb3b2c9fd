"""`lateen filter publish`: a module as a file, in an OCI image layout, or in a registry."""

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from lateen.cli import filterbuild, filteroci
from lateen.cli.exits import CommandError, Exit
from lateen.cli.filtercredentials import find_credentials
from lateen.cli.output import say

REGISTRY, LAYOUT = "oci://", "oci-dir://"
TAG = re.compile(r"[\w][\w.-]{0,127}")


def publish(module: str, target: str, options: filterbuild.Options, *, plain_http: bool) -> str:
    """Publish a .wasm file, or what is built from a source; what a WasmPlugin needs to find it, as YAML."""
    if target.startswith(REGISTRY):
        filteroci.parse_reference(target)  # before anything is built
    elif "://" in target and not target.startswith(LAYOUT):
        raise CommandError(Exit.USAGE, f"cannot publish to {target}", "write oci://..., oci-dir://... or a directory")
    if not filterbuild.is_module(module):
        with tempfile.TemporaryDirectory(prefix="lateen-filter-") as directory:
            path = Path(directory, f"{filterbuild.stem(module)}.wasm")
            return _publish(filterbuild.build(module, path, options), target, plain_http=plain_http)
    return _publish(Path(module), target, plain_http=plain_http)


def _publish(module: Path, target: str, *, plain_http: bool) -> str:
    content, names = filterbuild.read_module(module)
    if not names:
        say(f"warning: {module} was not built by lateen filter: nothing tells what configuration fits")
    if target.startswith(REGISTRY):
        reference = filteroci.parse_reference(target)
        image = filteroci.image(content)
        filteroci.push(reference, image, find_credentials(reference.registry), plain_http=plain_http)
        return _found(str(reference), image.manifest.removeprefix("sha256:"))
    if target.startswith(LAYOUT):
        directory, tag = _layout(target.removeprefix(LAYOUT))
        image = filteroci.image(content)
        try:
            filteroci.write_layout(directory, tag, image)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CommandError(Exit.INVALID, f"{directory}: {error}") from None
        return _found(f"{LAYOUT}{directory}:{tag}", image.manifest.removeprefix("sha256:"))
    place = Path(target, module.name)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_suffix(".part")
        shutil.copyfile(module, temporary)
        temporary.replace(place)
    except OSError as error:
        raise CommandError(Exit.INVALID, f"{target}: {(error.strerror or str(error)).lower()}") from None
    return _found(place.resolve().as_uri(), hashlib.sha256(content).hexdigest())


def _layout(text: str) -> tuple[Path, str]:
    """DIRECTORY[:TAG]."""
    directory, _, tag = text.rpartition(":")
    if not directory and not text.startswith(":"):
        directory, tag = text, "latest"
    if not directory or not TAG.fullmatch(tag):
        raise CommandError(Exit.USAGE, f"{text!r} is no DIRECTORY:TAG")
    return Path(directory), tag


def _found(url: str, sha256: str) -> str:
    return f"url: {url}\nsha256: {sha256}"
