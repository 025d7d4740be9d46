"""What the documents are made of holds together: links, anchors, snippets, and the site's pages."""

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.test_docs import CARD, DOCUMENTS, ROOT

DOCS = ROOT / "docs"
SITE = sorted(DOCS.rglob("*.md"))
LLMS = ROOT / "llms.txt"
LINK = re.compile(r"\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)\)")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXTERNAL = re.compile(r"https?://[\w.-]+\.[a-z]{2,}(?::\d+)?(?:/\S*)?")
by_name = {"ids": lambda path: str(path.relative_to(ROOT))}
every_document = pytest.mark.parametrize("document", [*DOCUMENTS, LLMS], **by_name)


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A text without what stands in code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def anchors(document: Path) -> set[str]:
    """Anchors of headings that GitHub and the site both have."""
    found = set()
    for title in re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(document)), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower()
        github = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        site = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", words).strip())
        if github == site:
            found.add(site)
    return found


def snippets(language: str) -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        for found, code in FENCE.findall(text_of(document)):
            if found == language:
                yield document, code


@every_document
def test_every_link_leads_somewhere(document):
    for link in LINK.findall(prose(text_of(document))):
        if "://" in link:
            assert EXTERNAL.fullmatch(link), link
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name}: {link}"
        if document in SITE:
            assert target.is_relative_to(DOCS), f"{link} leads out of the site"
        if anchor:
            assert anchor in anchors(target), f"{document.name}: {link}"


@every_document
def test_no_document_names_a_file_that_is_not_there(document):
    for path in re.findall(r"\b(?:experiments|benchmarks|examples)/[\w./]+", text_of(document)):
        assert (ROOT / path.rstrip(".")).exists(), path


def test_a_link_that_leads_nowhere_would_be_seen():
    assert LINK.findall("[a](b.md#c) and [d](https://e.org/f_(g))") == [
        "b.md#c",
        "https://e.org/f_(g)",
    ]
    assert "which-model-an-edit-is-for" in anchors(DOCS / "models.md")
    assert "no-such-heading" not in anchors(DOCS / "models.md")
    assert not EXTERNAL.fullmatch("https://example")


def pages(nav) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            yield from pages(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation_once():
    site = tomllib.loads(text_of(ROOT / "zensical.toml"))["project"]
    listed = list(pages(site["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in SITE)


def test_every_page_is_in_llms_txt():
    named = {(ROOT / link).resolve() for link in LINK.findall(text_of(LLMS)) if "://" not in link}
    left = {page for page in SITE if page not in named and page.parent.name != "reference"}
    assert {page.name for page in left} == {"index.md", "changelog.md"}


def test_what_pages_include_is_there():
    found = []
    for page in SITE:
        for name in re.findall(r'^--8<-- "([^":]+)', text_of(page), re.MULTILINE):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"
            found.append(ROOT / name)
    assert {CARD, ROOT / "CHANGELOG.md"} <= set(found)
    assert {file for file in found if file.suffix == ".py"} == {*(ROOT / "examples").glob("*.py")}
    # The page of the card leaves out what stands above the card's first text.
    head = text_of(CARD).splitlines()[:7]
    assert head[0] == head[4] == "---"
    assert head[6].startswith("# ")


def test_every_name_of_the_reference_is_there():
    import importlib

    for page in (DOCS / "reference").glob("*.md"):
        for name in re.findall(r"^::: ([\w.]+)$", text_of(page), re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            try:
                owner = importlib.import_module(name)
            except ModuleNotFoundError:
                owner = getattr(importlib.import_module(module), attribute)
            assert owner.__doc__, name


def test_every_public_name_has_a_page():
    import hypersteer as hs

    text = text_of(DOCS / "reference" / "index.md")
    assert [name for name in hs.__all__ if f"`{name}`" not in text] == []


def test_python_parses():
    found = list(snippets("python"))
    assert len(found) > 20
    for document, code in found:
        ast.parse(code, document.name)


def test_shell_parses():
    """Word by word as a shell splits it; `hypersteer` lines are parsed in test_docs.py."""
    found = list(snippets("sh"))
    assert len(found) > 20
    for _, code in found:
        script = re.sub(r"<<'END'.*?^END$", "", code, flags=re.MULTILINE | re.DOTALL)
        lexer = shlex.shlex(script, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        assert list(lexer)


def test_make_targets_and_extras_are_there():
    makefile = text_of(ROOT / "Makefile")
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    targets, wanted = set(), set()
    for document in DOCUMENTS:
        text = text_of(document)
        targets |= set(re.findall(r"(?:^\s*|`)make ([a-z]+(?:-[a-z]+)*)", text, re.MULTILINE))
        for found in re.findall(r'pip install "hypersteer\[([\w,]+)\]"', text):
            wanted |= set(found.split(","))
    assert {"install", "test", "docs", "test-wheel"} <= targets
    assert [one for one in targets if not re.search(rf"^{one}:", makefile, re.MULTILINE)] == []
    assert wanted <= set(extras)
    assert {"local", "serve", "endpoint"} <= wanted


def test_data_in_pages_parse():
    bodies = [code for _, code in snippets("json")]
    for _, code in snippets("sh"):
        bodies += re.findall(r"-d '(\{.*?\})'", code, re.DOTALL)
    assert len(bodies) > 3
    for body in bodies:
        rest = body.strip()
        while rest:
            _, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:].strip()
    for _, code in snippets("toml"):
        assert tomllib.loads(code)
