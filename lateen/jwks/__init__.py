"""Signing keys of token issuers: fetched in the background, each URI for itself, bounded in size and time.

Knows nothing of policies; imported by `extauthz` and `lateen.controlplane`.
"""
