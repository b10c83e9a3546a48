"""Bytes of the web to text, and the cache of pages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app.tools.web
from app.cancel import CancelToken
from app.tools.child import run_child
from app.tools.web.cache import Page, PageCache
from app.tools.web.charset import decode

EXTRACTOR = Path(app.tools.web.__file__).with_name("extract_child.py")


def extract(html: str, mode: str = "markdown") -> dict[str, str]:
    job = {"html": html, "url": "https://a.example/dir/page", "mode": mode}
    answer = run_child(EXTRACTOR, job, timeout=20, cancel=CancelToken())
    assert isinstance(answer, dict)
    return {key: str(value) for key, value in answer.items()}


@pytest.mark.parametrize(
    ("data", "declared", "text"),
    [
        ("grün".encode(), None, "grün"),
        ("grün".encode(), "utf-8", "grün"),
        ("grün".encode("latin-1"), None, "grün"),
        ("“grün”".encode("cp1252"), "iso-8859-1", "“grün”"),
        ("中文".encode("gb18030"), "GB2312", "中文"),
        ("日本".encode("shift_jis"), "Shift_JIS", "日本"),
        ("привет".encode("koi8-r"), "KOI8-R", "привет"),
        ("grün".encode("utf-16"), "latin-1", "grün"),
        ("\ufeffgrün".encode(), "latin-1", "grün"),
        ("grün".encode(), "no-such-charset", "grün"),
        (b"gr\xfcn", "utf-8", "gr\ufffdn"),
        (b"xn--a", "punycode", "xn--a"),
        (b"+AHg-", "utf-7", "+AHg-"),
        (b"\\x41", "unicode_escape", "\\x41"),
        (b"x", "zip", "x"),
        ("grü".encode()[:-1], None, "gr\ufffd"),
        ("grün".encode(), '"utf-8"', "grün"),
    ],
)
def test_a_body_is_decoded_as_browsers_do(data: bytes, declared: str | None, text: str) -> None:
    assert decode(data, declared) == text


@pytest.mark.parametrize(
    "meta",
    ['<meta charset="koi8-r">', "<META http-equiv=content-type content='text/html; charset=koi8-r'>"],
)
def test_a_page_may_name_its_charset_itself(meta: str) -> None:
    page = f"<html><head>{meta}</head>привет"
    assert decode(page.encode("koi8-r"), None, html=True) == page
    assert decode(page.encode("koi8-r"), None) != page
    assert decode(page.encode(), "utf-8", html=True) == page


@given(st.binary(max_size=200), st.none() | st.text(max_size=20), st.booleans())
def test_garbage_decodes_to_text_that_can_be_encoded(data: bytes, declared: str | None, html: bool) -> None:
    decode(data, declared, html=html).encode()


def page(text: str) -> Page:
    return Page("https://a.example/", 200, "", text)


def test_a_page_is_remembered_by_address_and_mode() -> None:
    cache = PageCache(60, 1000)
    cache.put("u", "text", page("x"))
    assert cache.get("u", "text") == page("x")
    assert cache.get("u", "markdown") is None
    assert cache.get("v", "text") is None


def test_a_page_is_forgotten_when_its_time_is_over() -> None:
    cache = PageCache(0, 1000)
    cache.put("u", "text", page("x"))
    assert cache.get("u", "text") is None


def test_the_page_not_asked_for_longest_makes_room() -> None:
    cache = PageCache(60, 100)
    for name in "ab":
        cache.put(name, "text", page("x" * 20))
    cache.get("a", "text")
    cache.put("c", "text", page("x" * 20))
    assert [name for name in "abc" if cache.get(name, "text")] == ["a", "c"]


def test_a_page_larger_than_the_cache_throws_nothing_out() -> None:
    cache = PageCache(60, 100)
    cache.put("a", "text", page("x"))
    cache.put("b", "text", page("x" * 51))
    assert cache.get("a", "text")
    assert cache.get("b", "text") is None


def test_a_page_put_again_takes_its_space_once() -> None:
    cache = PageCache(60, 100)
    for _ in range(5):
        cache.put("a", "text", page("x" * 20))
    cache.put("b", "text", page("x" * 20))
    assert cache.get("a", "text")


ARTICLE = """<html><head><title>All  about
 herons &amp; storks</title></head><body><nav><a href="/">Home</a> <a href="/login">Log in</a></nav>
<article><h1>Herons</h1><p>The grey heron is a long-legged wading bird of the family Ardeidae,
native throughout temperate Europe. See <a href="../more">more about it</a>. It stands up to one metre
tall and weighs two kilograms.</p>
<h2>Food</h2><ul><li>Fish that swim slowly in shallow water</li>
<li>Frogs and other amphibians of the shore</li></ul>
<table><tr><th>Bird</th><th>Height</th></tr><tr><td>Heron</td><td>100 cm</td></tr></table>
<p>Herons nest in trees close to lakes, in colonies that are called heronries,
and often return year after year.</p>
</article><footer>Copyright notice and cookies</footer><script>alert('boo')</script></body></html>"""


def test_a_page_becomes_markdown_without_its_frame() -> None:
    result = extract(ARTICLE)
    assert result["title"] == "All about herons & storks"
    assert "# Herons" in result["text"]
    assert "## Food" in result["text"]
    assert "[more about it](https://a.example/more)" in result["text"]
    assert "- Fish" in result["text"]
    assert "| Heron | 100 cm |" in result["text"]
    assert "boo" not in result["text"]
    assert "Log in" not in result["text"]


def test_a_page_becomes_plain_text() -> None:
    text = extract(ARTICLE, "text")["text"]
    assert "grey heron" in text
    assert "](" not in text
    assert "#" not in text


@pytest.mark.parametrize(
    "html", ["<html><body><p>Hi there</p></body></html>", "<p>Hi there", "<div><div>Hi there</div></div>"]
)
def test_a_page_that_is_no_article_is_given_as_its_text(html: str) -> None:
    assert "Hi there" in extract(html)["text"]


@pytest.mark.parametrize(
    "html",
    ["", " ", "\0", "<", "<html>", "<html><body></body></html>", "<!-- -->", "\ufeff\x01\x02<p>\x03",
     "<?xml version='1.0' encoding='utf-16'?><html/>"],
)  # fmt: skip
def test_a_page_of_nothing_gives_no_words(html: str) -> None:
    assert not any(character.isalpha() for character in extract(html)["text"])


@pytest.mark.parametrize(
    "html", ["<div>" * 5000 + "deep", "<b><i>" * 3000 + "x" + "</b>" * 3000, "<table>" * 2000]
)
def test_a_page_made_to_hurt_is_survived(html: str) -> None:
    assert set(extract(html)) == {"title", "text"}


def test_the_extractor_needs_nothing_of_this_package() -> None:
    assert "import app" not in EXTRACTOR.read_text()
    assert "from ." not in EXTRACTOR.read_text()
    assert sys.version_info >= (3, 11)
