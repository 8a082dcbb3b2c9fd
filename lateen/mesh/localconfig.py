"""`lateen.yaml`: how `lateen up` runs manifests on one host. The only file of a mesh directory that Kubernetes would not understand."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lateen.mesh.metadata import ObjectMeta
from lateen.mesh.spec import NonEmpty, Spec, rule_error


class ImageCommand(Spec):
    """What stands in for a container image: a command on this host. `{dir}` in it is the directory of lateen.yaml."""

    command: Annotated[tuple[NonEmpty, ...], Field(min_length=1)]
    workdir: str = "."
    """Relative to the directory of lateen.yaml."""
    env: dict[str, str] = {}


class LocalIssuer(Spec):
    """A token issuer that a RequestAuthentication names and a local one stands in for."""

    issuer: NonEmpty
    jwks_uri: NonEmpty


class LocalCertificate(Spec):
    """A TLS secret made at start, so that no key is ever committed."""

    secret: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
    """`namespace/name`."""
    hosts: Annotated[tuple[NonEmpty, ...], Field(min_length=1)]


class TryIt(Spec):
    """A command to paste once the mesh runs; `$LATEEN_...` variables are filled in."""

    command: NonEmpty
    shows: NonEmpty
    netns: str = ""
    """The command in netns mode, where that differs."""


class LocalSpec(Spec):
    """What `spec` of lateen.yaml may say."""

    images: dict[str, ImageCommand] = {}
    """By image as the manifests name it; a name without a tag stands for every tag."""
    issuers: tuple[LocalIssuer, ...] = ()
    certificates: tuple[LocalCertificate, ...] = ()
    try_it: tuple[TryIt, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> "LocalSpec":
        seen: set[str] = set()
        for index, certificate in enumerate(self.certificates):
            if certificate.secret in seen:
                raise rule_error("duplicate", f"secret {certificate.secret} is listed twice", "certificates", index)
            seen.add(certificate.secret)
        return self

    def image(self, name: str) -> ImageCommand | None:
        """The command for an image: the exact name, else the name without its tag or digest."""
        exact = self.images.get(name)
        if exact is not None:
            return exact
        without_digest = name.partition("@")[0]
        head, _, last = without_digest.rpartition("/")
        bare = f"{head}/{last.partition(':')[0]}" if head else last.partition(":")[0]
        return self.images.get(bare)


class Local(Spec):
    """The document in lateen.yaml."""

    api_version: Literal["lateen.dev/v1alpha1"]
    kind: Literal["Local"]
    metadata: ObjectMeta | None = None
    spec: LocalSpec = LocalSpec()
