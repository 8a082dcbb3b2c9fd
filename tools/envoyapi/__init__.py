"""Generates `lateen.envoyapi`: Envoy's API as protobuf classes, from the descriptors inside the pinned Envoy binary.

Run `python -m tools.envoyapi`; the build hook (`hatch_build.py`) does the same for every install and wheel.
Knows nothing of `lateen`.
"""
