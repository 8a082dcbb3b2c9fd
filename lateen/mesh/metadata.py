"""What every resource has: apiVersion, kind, metadata, and a key."""

from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lateen.mesh.kinds import ResourceKey
from lateen.mesh.spec import DNS_SUBDOMAIN, FreeForm, Int, NamespaceName, Spec, rule_error

__all__ = ["ClusterResource", "ObjectMeta", "Resource", "ResourceKey"]

DEFAULT_NAMESPACE = "default"
_LABEL_NAME = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
MetadataLabel = Annotated[str, Field(max_length=63, pattern=_LABEL_NAME)]


class ObjectMeta(Spec):
    """Kubernetes' metadata. `namespace` is `default` when not written."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)] | None = None
    generate_name: str | None = None
    namespace: NamespaceName = DEFAULT_NAMESPACE
    labels: dict[str, MetadataLabel] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: Int | None = None
    generation: Int = 0
    resource_version: str = ""
    uid: str = ""
    self_link: str = ""
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[FreeForm, ...] = ()
    managed_fields: tuple[FreeForm, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:  # noqa: ANN401 -- kubectl writes `creationTimestamp: null`
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _named(self) -> "ObjectMeta":
        if self.name is None:
            message = "generateName is not supported, set name" if self.generate_name else "name is required"
            raise rule_error("required", message, *(["generateName"] if self.generate_name else []))
        if any(len(key) > 317 or not key for key in self.labels):  # noqa: PLR2004 -- 253 + "/" + 63
            raise PydanticCustomError("label", "a label key must have 1 to 317 characters")
        return self


class Resource(Spec):
    """One object of the mesh's configuration. Subclasses add `spec` and set `api_version` and `kind`."""

    kind_id: ClassVar[str] = ""
    """The `KindInfo.id`, when it is not the name of the class."""
    namespaced: ClassVar[bool] = True

    api_version: str
    kind: str
    metadata: ObjectMeta
    status: FreeForm = {}

    @property
    def key(self) -> ResourceKey:
        """What identifies the resource."""
        cls = type(self)
        return ResourceKey(cls.kind_id or cls.__name__, self.metadata.namespace if cls.namespaced else "", self.name)

    @property
    def name(self) -> str:
        """The name; validation guarantees that there is one."""
        return self.metadata.name or ""

    @property
    def namespace(self) -> str:
        """The namespace, `default` when the author wrote none."""
        return self.metadata.namespace

    def to_dict(self) -> dict[str, Any]:
        """What the author wrote, as JSON-ready values."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class ClusterResource(Resource):
    """A resource outside any namespace."""

    namespaced: ClassVar[bool] = False
