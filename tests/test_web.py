"""Addresses of our HTTP servers, as settings have them."""

import pytest

from lateen.web import check_address, listen_on, split_address


def test_addresses() -> None:
    assert split_address("127.0.0.1:15013") == ("127.0.0.1", 15013)
    assert split_address("[::1]:1") == ("::1", 1)
    assert split_address(":80") == ("", 80)


@pytest.mark.parametrize("wrong", ["15013", "host:", "host:x", "host:65536", "host:²"])
def test_what_is_no_address(wrong: str) -> None:
    for read in (split_address, check_address, listen_on):
        with pytest.raises(ValueError, match="is not host:port"):
            read(wrong)


def test_a_unix_socket_is_an_address() -> None:
    check_address("unix:/run/x.sock")
