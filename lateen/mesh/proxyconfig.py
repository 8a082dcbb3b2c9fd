"""ProxyConfig (networking.istio.io): settings of the proxy process."""

from typing import Annotated

from pydantic import Field

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import Int32, LabelSelector, Spec


class ProxyImage(Spec):
    """Which image the proxy runs."""

    image_type: str | None = None


class ProxyConfigSpec(Spec):
    """Settings for the workloads selected."""

    selector: LabelSelector | None = None
    concurrency: Annotated[Int32, Field(ge=0)] | None = None
    environment_variables: dict[str, Annotated[str, Field(max_length=2048)]] = {}
    image: ProxyImage | None = None


class ProxyConfig(Resource):
    """Settings of the proxy process."""

    api_version: str = "networking.istio.io/v1beta1"
    kind: str = "ProxyConfig"
    spec: ProxyConfigSpec = ProxyConfigSpec()
