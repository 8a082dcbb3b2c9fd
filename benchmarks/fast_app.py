"""The application of `benchmarks/mesh`: an Envoy that answers HOST:PORT by itself, so that no slow application is measured."""

import os

from benchmarks.plain_envoy import application_bootstrap, command


def main() -> None:
    """Become that Envoy."""
    bootstrap = application_bootstrap(os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8080")))
    arguments = command(bootstrap, "fast-app", concurrency=1)
    os.execv(arguments[0], arguments)  # noqa: S606 - a process of its own would be one more to end


if __name__ == "__main__":
    main()
