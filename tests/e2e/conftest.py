"""A browser and its pages. Imports are in the fixtures: other tests need no playwright."""

import pytest


@pytest.fixture(scope="module")
def browser():
    from e2e.browsing import CHROMIUM, sync_api

    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture
def visit(browser, served):
    """Opens pages, and sees to it that none complains, or asks anybody else."""
    from e2e.browsing import DESKTOP, WAIT

    contexts, complaints = [], []

    def watch(page, address):
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: said.type in ("error", "warning") and complaints.append(said.text),
        )
        page.on(
            "request",
            lambda asked: (
                asked.url.startswith((address, "blob:", "data:"))
                or complaints.append(f"asked {asked.url}")
            ),
        )

    def open_page(path="/ui", viewport=None, address=None, wait=True, **options):
        context = browser.new_context(viewport=viewport or DESKTOP, **options)
        contexts.append(context)
        page = context.new_page()
        watch(page, address or served.url)
        page.goto((address or served.url) + path)
        page.locator("#gallery button").first.wait_for()
        if wait:
            page.locator("#code:not(:empty)").wait_for()
        return page

    open_page.complaints = complaints
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
