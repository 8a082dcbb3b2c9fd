"""The analyzers behind `lateen.mesh.analysis`: each looks at one kind of thing and adds its findings to a Report. Pure."""
