"""Images that a request names by their address, and files that it holds, against a real gateway."""

from __future__ import annotations

import base64
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import GatewayProcess, wait_until
from tests.e2e.http_client import Answer, Connection, chat, chat_body, open_stream, request_bytes, send
from tests.scripted_provider import Reply, ScriptedProvider
from tests.unit.test_schema import pdf_of
from tests.web_site import Handler, Site

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 64
JPEG = b"\xff\xd8\xff" + b"\0" * 64
SECONDS = 1.5


@pytest.fixture(scope="module")
def sighted(start_gateway: StartGateway) -> Iterator[GatewayProcess]:
    """A gateway that fetches images from 127.0.0.1, within 1.5 s, up to 100 kB, over two redirects."""
    images = {
        "allowUrl": True,
        "urlAllowlist": ["127.0.0.1", "*.pictures.example"],
        "maxBytes": 100_000,
        "maxRedirects": 2,
        "timeoutMs": int(SECONDS * 1000),
    }
    gateway = start_gateway(
        gateway={"http": {"endpoints": {"chatCompletions": {"images": images}}}},
        models={"providers": {"scripted": {"models": [{"id": "model", "input": ["text", "image"]}]}}},
    )
    yield gateway
    gateway.stop()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


def image(url: str, **fields: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def look(gateway: GatewayProcess, *parts: Any, **fields: Any) -> Answer:
    return chat(gateway, [{"type": "text", "text": "look"}, *parts], **fields)


def seen(provider: ScriptedProvider) -> list[Any]:
    """The images that the model was shown."""
    content = provider.requests[-1].body["messages"][-1]["content"]
    return [part["image_url"] for part in content if part["type"] == "image_url"]


def refused(answer: Answer, number: int = 1) -> str:
    assert answer.status == 400, answer
    assert answer.error["param"] == f"messages[0].content[{number}].image_url.url"
    return str(answer.error["message"])


def test_an_image_of_the_web_is_shown_to_the_model(
    sighted: GatewayProcess, site: Site, provider: ScriptedProvider
) -> None:
    provider.script(Reply("A bee."))

    answer = look(sighted, image(site.page("/bee", PNG, "image/png"), detail="low"))

    assert (answer.status, answer.text) == (200, "A bee.")
    assert seen(provider) == [
        {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}", "detail": "low"}
    ]
    assert site.seen[0].headers["accept"] == "image/gif, image/jpeg, image/png, image/webp"


def test_the_bytes_say_what_an_image_is_and_not_the_server(
    sighted: GatewayProcess, site: Site, provider: ScriptedProvider
) -> None:
    answer = look(
        sighted, image(site.page("/a", JPEG, "text/html")), image(site.page("/b", PNG, "image/jpeg"))
    )

    assert answer.status == 200, answer
    assert [shown["url"].partition(";")[0] for shown in seen(provider)] == [
        "data:image/jpeg",
        "data:image/png",
    ]


def test_a_stream_begins_once_its_images_are_there(
    sighted: GatewayProcess, site: Site, provider: ScriptedProvider
) -> None:
    provider.script(Reply("A bee."))
    part = image(site.page("/bee", PNG, "image/png"))

    with open_stream(sighted, [part]) as stream:
        *_, done = stream.events()

    assert done == "[DONE]"
    assert len(seen(provider)) == 1


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"<html>", "image/png", "leads to something that is not one of image/jpeg"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", "leads to something that is not"),
        (b"", "image/png", "leads to something that is not"),
        (PNG + b"\0" * 100_000, "image/png", "is larger than 100000 bytes"),
    ],
)
def test_what_is_no_image_or_too_large_is_refused_with_the_reason(
    sighted: GatewayProcess, site: Site, provider: ScriptedProvider, body: bytes, kind: str, words: str
) -> None:
    assert words in refused(look(sighted, image(site.page("/a", body, kind))))
    assert provider.requests == []


def test_an_error_of_the_server_is_told(sighted: GatewayProcess, site: Site) -> None:
    url = site.page("/gone", PNG, "image/png", 404)

    assert "cannot be fetched: The server answered with status 404" in refused(look(sighted, image(url)))


def test_redirects_are_followed_so_far(
    sighted: GatewayProcess, site: Site, provider: ScriptedProvider
) -> None:
    site.page("/bee", PNG, "image/png")
    site.page("/one", b"", status=302, location="/bee")
    site.page("/two", b"", status=307, location=f"{site.url}/one")
    far = site.page("/three", b"", status=301, location="/two")

    assert look(sighted, image(f"{site.url}/two")).status == 200
    assert "redirected more than 2 times" in refused(look(sighted, image(far)))


@pytest.mark.parametrize("host", ["127.0.0.3", "169.254.169.254", "10.0.0.1", "[::1]", "localhost"])
def test_a_redirect_to_where_nobody_may_look_leads_nowhere(
    sighted: GatewayProcess, site: Site, host: str
) -> None:
    with Site(host="127.0.0.3", port=site.port) as inner:
        inner.page("/secret", PNG, "image/png")
        url = site.page("/a", b"", status=302, location=f"http://{host}:{site.port}/secret")

        message = refused(look(sighted, image(url)))

        # The name means 127.0.0.1, which may be asked: there is nothing at that place.
        expected = "cannot be fetched" if host == "localhost" else "not on the list of hosts"
        assert expected in message
        assert inner.connections == 0


@pytest.mark.parametrize(
    "url",
    ["http://evil.example/a.png", "https://pictures.example.evil.test/a.png", "http://0x7f000003/a.png"],
)
def test_hosts_that_are_not_on_the_list_are_not_asked(sighted: GatewayProcess, url: str) -> None:
    message = refused(look(sighted, image(url)))

    assert "not on the list" in message or "not known" in message


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/a.png", "bee.png", "http://a:b@127.0.0.1/"]
)
def test_only_addresses_of_the_web_are_asked(sighted: GatewayProcess, url: str) -> None:
    assert "cannot be fetched" in refused(look(sighted, image(url)))


def drip(handler: Handler) -> None:
    """An image that comes a byte at a time, for ever."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(PNG)
    while not handler.site.over.wait(0.05):
        handler.wfile.write(b"\0")


def test_all_images_of_a_request_together_have_so_much_time(sighted: GatewayProcess, site: Site) -> None:
    quick, slow = site.page("/bee", PNG, "image/png"), site.at("/slow", drip)
    began = time.monotonic()

    message = refused(look(sighted, image(quick), image(slow), image(slow)), 2)

    assert "in time" in message
    assert SECONDS <= time.monotonic() - began < SECONDS + 5


def test_whoever_leaves_while_an_image_is_fetched_leaves_nothing_behind(
    sighted: GatewayProcess, site: Site, provider: ScriptedProvider
) -> None:
    url = site.at("/slow", Handler.wait_until_left)

    with Connection(sighted) as connection:
        connection.send(request_bytes(chat_body([image(url)])))
        assert site.waiting.wait(10)

    assert site.left.wait(SECONDS - 0.3)
    assert provider.requests == []


def test_nothing_is_fetched_for_a_request_that_is_wrong_elsewhere(
    sighted: GatewayProcess, site: Site
) -> None:
    url = site.page("/bee", PNG, "image/png")

    assert look(sighted, image(url), temperature=3).error["param"] == "temperature"
    assert site.connections == 0


def test_a_gateway_asks_nobody_for_images_unless_it_is_told_to(generous: GatewayProcess, site: Site) -> None:
    message = refused(look(generous, image(site.page("/bee", PNG, "image/png"))))

    assert "Only data: URIs are served" in message
    assert site.connections == 0


def test_without_a_list_everybody_is_asked_but_this_machine(start_gateway: StartGateway, site: Site) -> None:
    images = {"allowUrl": True, "allowedMimes": ["image/png", "image/heic"]}
    gateway = start_gateway(
        gateway={"http": {"endpoints": {"chatCompletions": {"images": images}}}},
        models={"providers": {"scripted": {"models": [{"id": "model", "input": ["image"]}]}}},
    )

    try:
        message = refused(look(gateway, image(site.page("/bee", PNG, "image/png"))))
        inline = refused(look(gateway, image("data:image/gif;base64,R0lGODlh")))
    finally:
        gateway.stop()

    assert "Blocked: private/internal IP address" in message
    assert "must be one of image/png" in inline
    assert site.connections == 0


def test_a_file_is_read_to_the_model(gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    pdf = pdf_of(b"BT /F1 24 Tf 72 700 Td (Bees hum in Bern.) Tj ET")
    files = [("notes.md", b"# Hives"), ("bees.pdf", pdf)]
    parts = [
        {"type": "file", "file": {"filename": name, "file_data": base64.b64encode(data).decode()}}
        for name, data in files
    ]

    answer = look(gateway, *parts)

    assert answer.status == 200, answer
    shown = provider.requests[-1].body["messages"][-1]["content"]
    assert "file notes.md" in shown
    assert "# Hives" in shown
    assert "Bees hum in Bern." in shown


def test_large_files_are_read_a_few_at_a_time(gateway: GatewayProcess) -> None:
    pdf = base64.b64encode(pdf_of(b"BT /F1 12 Tf (a) Tj ET\n" * 20_000)).decode()
    asked = chat_body([{"type": "file", "file": {"filename": "a.pdf", "file_data": pdf}}])
    readers: list[int] = []
    with ExitStack() as stack:
        clients = [stack.enter_context(Connection(gateway)) for _ in range(6)]
        for client in clients:
            client.send(request_bytes(asked))
        clients.pop().close()
        for client in clients:
            while not select.select([client.socket], [], [], 0.02)[0]:
                readers.append(children_of(gateway.worker_pid))
            assert client.read().status == 200
    assert 1 <= max(readers) <= 2
    wait_until(lambda: children_of(gateway.worker_pid) == 0)


def children_of(pid: int) -> int:
    """How many processes a process has started and not yet waited for, by any of its threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sum(len(task.read_text().split()) for task in tasks)


def test_the_responses_api_has_the_same_images_and_files(
    start_gateway: StartGateway, site: Site, provider: ScriptedProvider
) -> None:
    images = {"allowUrl": True, "urlAllowlist": ["127.0.0.1"]}
    gateway = start_gateway(
        gateway={
            "http": {"endpoints": {"chatCompletions": {"images": images}, "responses": {"enabled": True}}}
        },
        models={"providers": {"scripted": {"models": [{"id": "model", "input": ["text", "image"]}]}}},
    )
    picture = {"type": "input_image", "image_url": site.page("/bee", PNG), "detail": "high"}
    notes = {"type": "input_file", "filename": "notes.md", "file_data": base64.b64encode(b"# Hives").decode()}
    body = {"model": "openclaw", "input": [{"role": "user", "content": [picture, notes]}]}

    try:
        answer = send(gateway, body, path="/v1/responses")
        wrong = send(gateway, body | {"temperature": 3}, path="/v1/responses")
    finally:
        gateway.stop()

    assert answer.status == 200, answer
    assert [shown["detail"] for shown in seen(provider)] == ["high"]
    assert "# Hives" in provider.requests[-1].user_text
    assert wrong.error["param"] == "temperature"
    assert site.connections == 1
