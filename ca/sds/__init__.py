"""The secret discovery service, as a library: what `lateen.agent` serves to each Envoy (and to our own services) on a unix socket.

Imports nothing of the authority (`ca.*` outside this package) and knows nothing of how certificates are obtained: its owner puts
secrets into a `SecretTable`, every stream that subscribes to them is told. May be imported by `lateen.agent` only.
"""
