"""What a real browser makes of files that are served from a storage."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import override_settings

from netstorage.demo.once import Sample
from netstorage.demo.servers import Server
from netstorage.testing import SFTPServer
from tests import test_demo
from tests.browser import chromium, samples
from tests.browser.chromium import Chromium, Page
from tests.browser.site import Site

if reason := chromium.unavailable():
    pytest.skip(reason, allow_module_level=True)

SCRIPT = "<script>localStorage.setItem('ran', 'yes')</script>"
HTML = f"<!doctype html><title>-</title>{SCRIPT}"
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="60">'
    f'<circle cx="45" cy="30" r="25" fill="green"/>{SCRIPT}</svg>'
)


@pytest.fixture(scope="module")
def site(sftp_server: SFTPServer) -> Iterator[Site]:
    options = {
        **sftp_server.options,
        "location": "browser",
        "base_url": "/media/",
        "querystring_auth": True,
    }
    storages = {"default": {"BACKEND": "netstorage.SFTPStorage", "OPTIONS": options}}
    with override_settings(
        ROOT_URLCONF="tests.browser.site", ALLOWED_HOSTS=["127.0.0.1"], STORAGES=storages
    ):
        site = Site()
        yield site
        site.close()


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Chromium]:
    with Chromium() as browser:
        behavior = {"behavior": "allow", "downloadPath": f"{browser.home.name}/downloads"}
        browser.call("Browser.setDownloadBehavior", eventsEnabled=True, **behavior)
        yield browser


@pytest.fixture
def page(site: Site, browser: Chromium) -> Iterator[Page]:
    """A new tab, and nothing noted yet."""
    site.notes.requests.clear()
    page = Page(browser)
    yield page
    page.close()


def save(name: str, content: bytes | str) -> str:
    return default_storage.save(name, ContentFile(content))


@pytest.fixture(scope="module")
def video(site: Site) -> str:
    return save("noise.webm", samples.video())


def test_video_plays_and_seeks(site: Site, page: Page, video: str) -> None:
    """It plays while it comes, and a jump fetches what lies there, not all that is before it."""
    page.go(site.page(f'<video muted src="{site.media(video)}"></video>'))
    play_until = """(time => new Promise((done, fail) => {
        video.onerror = () => fail(video.error.message)
        video.ontimeupdate = () => video.currentTime > time && done()
        video.play()
    }))"""
    page.run(f"video = document.querySelector('video'), {play_until}(0.5)")
    assert page.run("video.duration") == samples.SECONDS
    far = samples.SECONDS * 8 // 10
    page.run(f"""new Promise(done => {{
        video.pause()
        video.onseeked = done
        video.currentTime = {far}
    }})""")
    brightness = page.run("""(canvas => {
        canvas.drawImage(video, 0, 0)
        return canvas.getImageData(80, 80, 1, 1).data[0]
    })(document.createElement('canvas').getContext('2d'))""")
    assert brightness == pytest.approx(samples.shade(far), abs=2)
    page.picture("video.png")
    page.run(f"{play_until}({far} + 0.5)")
    asked = site.asked(video)
    size = default_storage.size(video)
    assert {each.status for each in asked} <= {206, 304}
    begun = [each for each in asked if each.first < size // 2]
    jumped = [each for each in asked if each not in begun]
    # Between what it played and where it jumped is a part that nobody asked for.
    assert max(each.first + each.sent for each in begun) < min(each.first for each in jumped)


def test_download_is_resumed(site: Site, page: Page, sftp_server: SFTPServer) -> None:
    """When the line breaks in the middle, the browser fetches the rest, and all bytes are right."""
    content = random.Random(1).randbytes(10_000_000)
    name = save("resumed.bin", content)
    # A file this young might still change, so no browser would go on with it.
    os.utime(sftp_server.root / "browser" / name, (1, 1))
    site.notes.cut_after[:] = [3_000_000, 2_000_000]
    page.go(site.media(name))
    saved, downloaded = page.browser.download()
    assert saved == name
    assert downloaded == content, "the bytes differ"
    asked = [(each.status, each.range, each.sent) for each in site.asked(name)]
    assert asked == [
        (200, "", 3_000_000),
        (206, "bytes=3000000-", 2_000_000),
        (206, "bytes=5000000-", 5_000_000),
    ]
    _, *others = site.asked(name)
    assert all(each.if_range for each in others)


def test_image_is_shown(site: Site, page: Page) -> None:
    """As a picture in a page, and when its address is opened."""
    url = site.media(save("image.png", samples.image()))
    page.go(site.page(f'<img src="{url}">'))
    assert page.run("document.images[0].naturalWidth") == samples.WIDTH
    assert page.go(url) is None
    assert page.run("document.images[0].naturalWidth") == samples.WIDTH
    page.picture("image.png")


def test_pdf_is_shown(site: Site, page: Page) -> None:
    """The browser's own viewer opens it."""

    def is_orange(pixel: tuple[int, int, int]) -> bool:
        return all(abs(one - other) < 9 for one, other in zip(pixel, samples.ORANGE, strict=True))

    assert page.go(site.media(save("paper.pdf", samples.pdf()))) is None
    assert page.run("document.contentType") == "application/pdf"
    # The viewer is a program of its own that nobody outside can ask whether it is ready.
    deadline = time.monotonic() + chromium.DEADLINE
    while not any(is_orange(colour) for _, colour in page.picture("pdf.png").getcolors(1 << 20)):
        assert time.monotonic() < deadline, "the paper is not seen"


@pytest.mark.parametrize(
    ("name", "content"), [("page.html", HTML), ("drawing.svg", SVG)], ids=["html", "svg"]
)
def test_active_content_is_downloaded(site: Site, page: Page, name: str, content: str) -> None:
    """Whether it is opened or framed: it becomes a file, its script never runs as our site."""
    name = save(name, content)
    url = site.media(name)
    assert page.go(url) == "net::ERR_ABORTED"
    assert page.browser.download() == (name, content.encode())
    page.go(site.page(f'<iframe src="{url}"></iframe>'))
    assert page.browser.download() == (name, content.encode())
    page.go(site.page(f'<object data="{url}"></object>'))
    assert page.run("localStorage.getItem('ran')") is None


def test_svg_is_shown_as_a_picture(site: Site, page: Page) -> None:
    """There, scripts are dead anyway."""
    page.go(site.page(f'<img src="{site.media(save("picture.svg", SVG))}">'))
    assert page.run("document.images[0].naturalWidth") == 90


def test_download_has_the_files_name(site: Site, page: Page) -> None:
    """All of it; only quotes are nothing that Chromium has in names of files."""
    name = save('Grüße "x".zip', "content")
    page.go(site.media(name))
    assert page.browser.download() == ("Grüße _x_.zip", b"content")


@pytest.mark.parametrize("server", Server)
def test_demo_shows_what_was_uploaded(page: Page, tmp_path: Path, server: Server) -> None:
    """Who clicks on a picture or a PDF on the demo's page sees it."""
    with test_demo.started(tmp_path) as demo:
        for sample in (Sample("a b.png", samples.image()), Sample("paper.pdf", samples.pdf())):
            demo.visitor.upload(server, sample, demo.visitor.look().token)
        page.go(demo.url)
        links = page.run("[...document.querySelectorAll('td.name a')].map(link => link.href)")
        pdf, image = sorted(links, key=lambda link: ".png" in link)
        assert page.go(image) is None
        assert page.run("document.images[0].naturalWidth") == samples.WIDTH
        page.picture(f"demo-{server}.png")
        assert page.go(pdf) is None
        assert page.run("document.contentType") == "application/pdf"
        assert demo.end() == 0
