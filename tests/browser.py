"""A headless Chromium that checks what a reader would see: content cut off, images missing, network requests."""

import contextlib
import functools
import http.server
import shutil
import threading
from dataclasses import dataclass

import pytest

WIDTH, HEIGHT = 1280, 720

# Measures the slide on screen: its heading, how far its content extends, broken images, formulas, notes.
MEASURE = """
() => {
  const slide = Reveal.getCurrentSlide(), problems = [];
  const notes = slide.querySelector('aside.notes');
  let down = 0, right = 0, widest = null;
  for (const element of slide.querySelectorAll('*')) {
    if (element.closest('aside.notes, mjx-assistive-mml')) continue;
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    down = Math.max(down, box.bottom);
    const reach = Math.max(box.right, box.left + element.scrollWidth);
    if (reach > right) { right = reach; widest = element; }
  }
  if (down > HEIGHT + 1) problems.push(`extends down to ${Math.round(down)} of HEIGHT pixels`);
  if (right > WIDTH + 1)
    problems.push(`extends right to ${Math.round(right)} of WIDTH pixels: ${widest.textContent.trim().slice(0, 60)}`);
  const images = [...slide.querySelectorAll('img')];
  for (const image of images)
    if (!image.complete || !image.naturalWidth || image.getBoundingClientRect().width < 20)
      problems.push(`an image is not shown: ${image.src.slice(0, 60)}`);
  const heading = slide.querySelector('h1, h2, h3');
  return {
    title: heading ? heading.innerText.trim() : '', problems, figures: images.length,
    formulas: slide.querySelectorAll('mjx-container > svg').length, notes: notes ? notes.innerText.trim() : '',
  };
}
""".replace("WIDTH", str(WIDTH)).replace("HEIGHT", str(HEIGHT))


@dataclass
class Slide:
    """What was found on one slide."""

    title: str
    problems: list
    figures: int
    formulas: int
    notes: str


class Browser:
    """One page of a browser; `problems` collects console errors and requests to other machines."""

    def __init__(self, page):
        self.page, self.problems = page, []
        page.on("console", lambda line: self._note(f"console: {line.text}") if line.type == "error" else None)
        page.on("pageerror", lambda error: self._note(f"script: {error}"))
        page.on("requestfailed", lambda request: self._note(f"could not load {request.url}"))
        page.route("**/*", self._route)

    def _note(self, problem):
        self.problems.append(problem)

    def _route(self, route):
        address = route.request.url
        if address.startswith(("file:", "data:", "blob:", "http://127.0.0.1:")):
            route.continue_()
        else:
            self._note(f"requests {address} from the network")
            route.abort()

    def go(self, address):
        """Open an address; wait until it has loaded and its formulas are drawn."""
        self.page.goto(address, wait_until="load")
        self.page.evaluate("window.MathJax && MathJax.startup && MathJax.startup.promise")
        return self.page


@contextlib.contextmanager
def start():
    """A running Chromium without pages. Skips the test if there is no Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed; on Debian: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield chromium
        finally:
            chromium.close()


@contextlib.contextmanager
def open_page(chromium):
    """A Browser: an empty page that keeps nothing of earlier pages. Fails at the end if it has `problems`."""
    context = chromium.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    try:
        opened = Browser(context.new_page())
        yield opened
    finally:
        context.close()
    assert not opened.problems, "\n".join(opened.problems)


@contextlib.contextmanager
def open_browser():
    """A Browser in a Chromium of its own. Skips the test if there is no Chromium."""
    with start() as chromium, open_page(chromium) as opened:
        yield opened


def look_at_slides(opened, address):
    """Open slides and page through them with all fragments shown. Returns a list of Slide."""
    page = opened.go(address)
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    seen = []
    for i in range(page.evaluate("Reveal.getTotalSlides()")):
        page.evaluate(
            "i => { const s = Reveal.getSlides()[i], at = Reveal.getIndices(s); Reveal.slide(at.h, at.v, 99); }", i
        )
        seen.append(Slide(**page.evaluate(MEASURE)))
    return seen


def broken_images(page):
    """Addresses of the images on a page that did not load."""
    return page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)")


@contextlib.contextmanager
def serve(folder):
    """Serve a folder to this machine only; yields the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
