"""Which web addresses an agent may reach."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import ConfigError
from app.tools.registry import ToolError
from app.tools.web.guard import Guard, bounded, is_own, is_public, parse_url, system_resolver

PUBLIC = "93.184.216.34"

# Deprecated or special, and global all the same for the `ipaddress` of some Python versions.
SPECIAL = [IPv4Network(net) for net in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")]


def is_global(v4: IPv4Address) -> bool:
    return (
        v4.is_global
        and not (v4.is_multicast or v4.is_reserved or v4.is_private or v4.is_loopback or v4.is_link_local)
        and not any(v4 in network for network in SPECIAL)
    )


def guard(*addresses: str, allow: tuple[str, ...] = ()) -> Guard:
    return Guard(allow, lambda host, port: list(addresses))


def refusal(url: str, judge: Guard | None = None) -> str:
    with pytest.raises(ToolError) as caught:
        (judge or Guard()).addresses(parse_url(url))
    return str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1",
        "192.0.2.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
        "255.255.255.255", "168.63.129.16", "192.88.99.1",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "3fff::1", "100::1", "5f00::1",
        "fc00::1", "fd00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1",
        "", "localhost", "1.2.3", "::ffff:1.2.3",
    ],
)  # fmt: skip
def test_a_special_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [PUBLIC, "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
@example(IPv4Address("192.0.0.192"))
def test_an_ipv4_address_is_judged_alike_in_every_form_that_leads_to_it(v4: IPv4Address) -> None:
    number = int(v4)
    forms = [
        str(v4),
        str(IPv6Address((0xFFFF << 32) | number)),
        str(IPv6Address((0x64FF9B << 96) | number)),
        str(IPv6Address((0x2002 << 112) | (number << 80) | 1)),
    ]
    assert {is_public(form) for form in forms} == {is_global(v4)}
    teredo = (0x20010000 << 96) | (number << 64) | (number ^ 0xFFFF_FFFF)
    assert not is_public(str(IPv6Address(teredo)))


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_is_public_only_if_it_is_global(v6: IPv6Address) -> None:
    if is_public(str(v6)):
        assert v6.is_global
        assert not (v6.is_multicast | v6.is_private | v6.is_loopback | v6.is_link_local | v6.is_site_local)


@given(st.text(max_size=40))
def test_text_that_is_no_address_is_never_public(text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        assert not is_public(text)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost/", "http://LOCALHOST:8080/", "http://0.0.0.0/", "http://0/",
        "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/",
        "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.0.1./",
        "http://①②⑦.⓪.⓪.①/", "http://169.254.169.254/latest/meta-data/", "http://10.1.2.3/", "https://192.168.0.1/",
        "http://100.64.1.1/", "http://[fd00::1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    ],
)  # fmt: skip
def test_a_private_place_is_refused_however_it_is_written(url: str) -> None:
    assert "Blocked" in refusal(url) or "is not known" in refusal(url)


@pytest.mark.parametrize("private", ["127.0.0.1", "10.0.0.1", "::1", "fd00::1"])
def test_one_private_address_among_public_ones_is_enough_to_refuse(private: str) -> None:
    assert "Blocked" in refusal("http://mixed.example/", guard(PUBLIC, private))
    assert "Blocked" in refusal("http://mixed.example/", guard(private, PUBLIC))


def test_a_public_name_may_be_reached_where_it_was_judged() -> None:
    assert guard(PUBLIC, "2606:4700::1111").addresses(parse_url("https://a.example/")) == [
        PUBLIC,
        "2606:4700::1111",
    ]


def test_a_name_that_nobody_knows_is_said_to_be_unknown() -> None:
    def nobody(host: str, port: int) -> list[str]:
        raise socket.gaierror

    assert "is not known" in refusal("http://a.example/", Guard((), nobody))
    assert "is not known" in refusal("http://a.example/", guard())


@pytest.mark.parametrize("port", [22, 25, 110, 143, 445, 1023])
def test_a_port_of_another_service_is_refused(port: int) -> None:
    assert "Blocked" in refusal(f"http://a.example:{port}/", guard(PUBLIC))


@pytest.mark.parametrize("port", [80, 443, 1024, 8080, 65535])
def test_a_port_of_a_web_server_is_permitted(port: int) -> None:
    assert guard(PUBLIC).addresses(parse_url(f"http://a.example:{port}/")) == [PUBLIC]


@pytest.mark.parametrize(
    ("allow", "url", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:81/", "127.0.0.1"),
        ("10.0.0.0/8", "http://wiki.example/", "10.2.3.4"),
        ("10.0.0.0/8", "http://wiki.example/", "::ffff:10.2.3.4"),
        ("fd00::/8", "http://[fd00::5]/", "fd00::5"),
        ("wiki.example", "http://WIKI.example:22/", "10.2.3.4"),
        ("*.corp.example", "http://a.b.corp.example./", "192.168.3.4"),
    ],
)
def test_what_the_operator_allows_may_be_private(allow: str, url: str, address: str) -> None:
    assert guard(address, allow=(allow,)).addresses(parse_url(url)) == [address]


@pytest.mark.parametrize("url", ["http://corp.example/", "http://xcorp.example/", "http://10.2.3.4/"])
def test_allowing_a_name_allows_no_other(url: str) -> None:
    assert "Blocked" in refusal(url, guard("10.2.3.4", allow=("*.corp.example", "wiki.example")))


def test_a_broken_network_in_the_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"10\.0\.0\.0/99"):
        Guard(("10.0.0.0/99",))


def test_an_address_of_this_machine_is_recognised() -> None:
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.1")


def test_the_system_knows_the_address_of_an_address() -> None:
    assert system_resolver("127.0.0.1", 80) == ["127.0.0.1"]


@pytest.mark.parametrize(
    "url",
    [
        "", "a.example", "//a.example/", "/etc/passwd", "file:///etc/passwd", "gopher://a.example/", "ftp://a.example/",
        "dict://a.example:11211/", "data:text/plain,x", "javascript:alert(1)", "http://", "http:///x", "http://:80/",
        "http://user@a.example/", "http://user:pw@a.example/", "http://a.example@127.0.0.1/", "http://@a.example/",
        "http://a.example\\@127.0.0.1/", "http://a.example\r\nHost: b/", "http://a.example/\r\nX: y",
        "http://a.example/\x00", "http://a b.example/", "http://a.example:0/", "http://a.example:99999/",
        "http://a.example:x/", "http://[::1/", "http://[fe80::1%25eth0]/", "http://[v1.x]/", "http://%31.example/",
        "http://a.example%00.b/", "http://a.example/" + "x" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    with pytest.raises(ToolError):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("http://A.example", "http://a.example/"),
        (" https://a.example:443/x?y=1#z ", "https://a.example/x?y=1"),
        ("http://a.example:8080/ä b?q=ü&r=%20", "http://a.example:8080/%C3%A4%20b?q=%C3%BC&r=%20"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[2606:4700:0::1]:8080/", "http://[2606:4700::1]:8080/"),
    ],
)
def test_a_url_is_put_into_a_form_that_can_be_sent(url: str, canonical: str) -> None:
    assert str(parse_url(url)) == canonical


@given(st.text(max_size=60).map("http://a.example/{}".format))
def test_what_is_sent_holds_nothing_that_could_end_the_request_line(url: str) -> None:
    try:
        target = parse_url(url)
    except ToolError:
        return
    assert target.path.isascii()
    assert not any(character.isspace() or not character.isprintable() for character in target.path)
    assert parse_url(str(target)) == target


@given(st.text(max_size=40).map("http://{}".format))
def test_any_text_is_a_url_or_refused(url: str) -> None:
    try:
        target = parse_url(url)
    except ToolError:
        return
    assert target.scheme in {"http", "https"}
    assert target.host
    assert not set(target.host) & set("@/\\%# \r\n")


# where nothing else may be asked


def listed(*addresses: str, allow: tuple[str, ...]) -> Guard:
    return Guard(allow, lambda host, port: list(addresses), only=True)


def test_with_a_list_only_hosts_on_it_are_asked() -> None:
    judge = listed(PUBLIC, allow=("*.example.com", "img.test"))

    assert judge.addresses(parse_url("https://a.example.com/")) == [PUBLIC]
    assert judge.addresses(parse_url("https://IMG.test./")) == [PUBLIC]
    for url in ("https://example.com/", "https://a.example.com.evil.test/", f"http://{PUBLIC}/"):
        assert "not on the list" in refusal(url, judge)


def test_a_name_on_the_list_that_means_a_private_address_is_still_blocked() -> None:
    assert "Blocked" in refusal("http://a.example.com/", listed("10.0.0.1", allow=("*.example.com",)))
    assert "Blocked" in refusal(
        "http://a.example.com/", listed(PUBLIC, "127.0.0.1", allow=("*.example.com",))
    )


def test_a_network_on_the_list_may_be_asked_although_it_is_private() -> None:
    judge = listed("10.0.0.1", allow=("10.0.0.0/24",))

    assert judge.addresses(parse_url("http://10.0.0.1:81/")) == ["10.0.0.1"]
    assert judge.addresses(parse_url("http://inside.test/")) == ["10.0.0.1"]
    assert "not on the list" in refusal("http://x.test/", listed("10.0.1.1", allow=("10.0.0.0/24",)))
    assert "not on the list" in refusal("http://x.test/", listed("10.0.0.1", PUBLIC, allow=("10.0.0.0/24",)))


def test_a_name_that_is_not_on_the_list_is_not_even_looked_up() -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return [PUBLIC]

    refusal("http://secret.evil.test/", Guard(("good.test",), resolve, only=True))

    assert asked == []


# lookups that take too long


def start(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


def test_a_lookup_that_hangs_is_given_up() -> None:
    over = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        over.wait(10)
        return [PUBLIC]

    judge = Guard((), bounded(hang, start, 0.05))
    began = time.monotonic()

    assert "not known" in refusal("http://slow.test/", judge)

    assert time.monotonic() - began < 5
    over.set()


def test_a_bounded_lookup_finds_what_there_is() -> None:
    def resolve(host: str, port: int) -> list[str]:
        if host == "gone.test":
            raise OSError
        return [PUBLIC]

    judge = Guard((), bounded(resolve, start, 5))

    assert judge.addresses(parse_url("http://here.test/")) == [PUBLIC]
    assert "not known" in refusal("http://gone.test/", judge)
