"""The runner behind `lateen up DIR`: a mesh of real Envoys on one Linux host, without a cluster.

`plan` decides (pure) which processes a directory of manifests needs; `mesh` starts them; `supervisor` and `reaper` keep them running and
make sure that nothing outlives the runner. Only `lateen.cli` may import this package. It talks to the services it starts on the wire, and
must not know how they do their work.
"""
