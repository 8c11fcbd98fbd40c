"""A page and an HTTP interface: drop an image, ask, see and correct the region."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_commands(register: Register) -> None:
    """Offer ``medground serve``."""
    from medground_serve.command import serve

    register("serve", serve)


@hookimpl
def self_check() -> None:
    """Describe the interface, without listening or starting a worker."""
    from medground_serve.app import describe

    assert "/ground" in describe()["paths"]
