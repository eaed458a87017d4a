"""The pages stand alone, speak both languages, let nothing in from outside as code, and do what a visitor expects."""

import base64
import hashlib
import html.parser
import io
import json
import re
import shutil
import threading
import time

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright
from starlette.testclient import TestClient

from fromzero.language import catalogue
from fromzero.records import Columns, Preprocessing, Tokens
from fromzero.serving.access import Rate
from fromzero.serving.app import application


class Evil:
    """A model whose name tries to leave its place in the page."""

    name = "</script><script>alert(1)</script><!--\u2028{{data}}"
    task, device = "image", "cpu"
    labels = ("<b>one</b>", "two")
    preprocessing = Preprocessing(size=8, channels=1, crop=1.0, mean=(0.5,), std=(0.5,))

    def scores(self, batch):
        return np.full((len(batch), 2), 0.5, np.float32)


@pytest.fixture(scope="module")
def client():
    with TestClient(application(Evil(), language="en")) as client:
        yield client


class Outline(html.parser.HTMLParser):
    """Tags with their attributes, and the text of the scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.within = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.within = ""

    def handle_data(self, data):
        if self.within == "script":
            self.scripts[-1] += data


@pytest.fixture(params=["/", "/docs"])
def answer(client, request):
    return client.get(request.param)


def test_nothing_comes_from_elsewhere(answer):
    assert answer.status_code == 200
    outline = Outline(answer.text)
    for tag, attributes in outline.tags:
        for name in ("src", "href", "action"):
            target = attributes.get(name, "")
            assert target.startswith("data:") or "//" not in target, (tag, target)
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
    assert "@import" not in answer.text and "url(" not in answer.text


def test_policy_allows_just_this_style_and_script(answer):
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    for tag in ("script", "style"):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_model_name_stays_data(answer):
    outline = Outline(answer.text)
    assert len(outline.scripts) == 2, "the name broke out of its script"
    assert "alert(1)</script>" not in answer.text
    facts = json.loads(outline.scripts[0])["facts"]
    assert facts["model"] == Evil.name and facts["classes"] == 2


def test_script_writes_text_never_html(answer):
    script = Outline(answer.text).scripts[1]
    assert "textContent" in script
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert danger not in script


def test_both_languages(client):
    english = client.get("/", headers={"accept-language": "en-GB"})
    chinese = client.get("/", headers={"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"})
    assert '<html lang="en">' in english.text and catalogue()["page.title"][0] in english.text
    assert (
        '<html lang="zh-CN">' in chinese.text
        and f'<h1 data-say="page.title">{catalogue()["page.title"][1]}<' in chinese.text
    )
    assert client.get("/?lang=zh", headers={"accept-language": "en"}).text == chinese.text
    assert english.headers["vary"] == "accept-language"


def test_every_text_has_its_row(answer):
    outline = Outline(answer.text)
    words = json.loads(outline.scripts[0])["words"]
    used = {attributes["data-say"] for _, attributes in outline.tags if "data-say" in attributes}
    used |= set(re.findall(r'say\("([a-z_.]+)"', outline.scripts[1]))
    assert used <= words.keys(), used - words.keys()
    assert "{{" not in answer.text.replace(json.dumps(Evil.name)[1:-1], "").replace("{{data}}", "")


def test_usable_without_a_mouse_and_without_eyes(client):
    outline = Outline(client.get("/").text)
    by_id = {attributes["id"]: attributes for _, attributes in outline.tags if "id" in attributes}
    labelled = {attributes.get("for") for tag, attributes in outline.tags if tag == "label"}
    inputs = [attributes["id"] for tag, attributes in outline.tags if tag == "input"]
    assert inputs and set(inputs) <= labelled
    assert by_id["status"]["role"] == "status" and by_id["notice"]["role"] == "alert"
    assert by_id["camera"]["capture"] == "environment"
    assert ":focus-visible" in client.get("/").text and "prefers-color-scheme: dark" in client.get("/").text
    assert any(a.get("name") == "viewport" for tag, a in outline.tags if tag == "meta")


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/openapi.json", "/nothing", "/metrics"])
def test_security_headers_everywhere(client, path):
    headers = client.get(path, headers={"origin": "http://elsewhere.example"}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not any(name.startswith("access-control") for name in headers)
    assert headers["x-request-id"]


# --- as a visitor: headless Chromium and a real server ----------------------------------------------------------------

CHROMIUM = next((each for each in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if each), None)
SIZE = 24


class Tints(Evil):
    """Says which of three colours a picture has most of, wherever in it."""

    name = "tints"
    labels = ("red", "绿色", "blue")
    preprocessing = Preprocessing(size=SIZE, channels=3, crop=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)

    def scores(self, batch):
        sums = batch.reshape(len(batch), -1, 3).mean(1) + 1
        return (sums / sums.sum(1, keepdims=True)).astype(np.float32)


class Loans(Evil):
    """Trusts who asks for less than 1000 and owns a house."""

    name = "loans"
    task = "table"
    labels = ("good", "bad")
    preprocessing = Columns(numbers=(("amount", 1000.0, 500.0),), flagged=(), words=(("housing", ("own", "rent")),))

    def scores(self, batch):
        good = 0.4 + 0.2 * (batch[:, 0] < 0) + 0.2 * (batch[:, 1] == 1)
        return np.stack([good, 1 - good], 1).astype(np.float32)


class Mood(Evil):
    """A text with "good" in it is positive."""

    name = "mood"
    task = "text"
    labels = ("positive", "negative")

    def __init__(self):
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Whitespace

        tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "good": 2}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = Whitespace()
        self.preprocessing = Tokens(length=16, vocabulary=3, padding=1, tokenizer=tokenizer.to_str())

    def scores(self, batch):
        good = np.where((batch == 2).any(1), 0.9, 0.2)
        return np.stack([good, 1 - good], 1).astype(np.float32)


class Server:
    """A real one in a thread; it can be stopped and started again under its address."""

    def __init__(self, models, **settings):
        self.models, self.settings, self.port = models, settings, 0
        self.start()

    def start(self):
        config = uvicorn.Config(
            application(self.models, **self.settings), port=self.port, log_config=None, timeout_graceful_shutdown=2
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        wait_for(lambda: httpx.get(f"{self.url}readyz").status_code == 200)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server():
    server = Server({"tints": Tints(), "mood": Mood(), "loans": Loans()}, language="en", max_bytes=2**20)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, request, tmp_path):
    """Opens a page as a visitor with a device and a language of her own. What the page's script does wrong, or the
    policy forbids, fails the test; its last state is a picture in the test's folder."""
    contexts, wrong = [], []

    def visit(url, **device):
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 850}, **device})
        context.set_default_timeout(15000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: "Content Security Policy" in said.text and wrong.append(said.text))
        page.goto(url)
        return page

    visit.wrong = wrong
    yield visit
    for number, context in enumerate(contexts):
        for page in context.pages:
            page.screenshot(path=tmp_path / f"{number}.png", full_page=True)
        context.close()
    assert wrong == []


def picture(colour, kind="PNG", size=(64, 48)):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


def upload(page, *files, field="#choose"):
    page.set_input_files(field, [{"name": name, "mimeType": kind, "buffer": content} for name, kind, content in files])


RED = ("red.png", "image/png", picture((250, 20, 20)))
BLUE = ("blau 图.jpg", "image/jpeg", picture((10, 30, 240), "JPEG"))
PHONE = {"viewport": {"width": 360, "height": 700}, "has_touch": True, "is_mobile": True}


def best(card):
    return card.locator(".best").inner_text()


def faults(page):
    """What axe, the accessibility checker of browsers, finds: labels, names, contrast, roles, order."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found]


def test_upload(visit, server):
    page = visit(server.url)
    upload(page, RED, BLUE)
    page.wait_for_selector(".card.done >> nth=1")
    red, blue = page.locator(".card").all()
    assert (best(red), best(blue)) == ("red", "blue")
    assert "blau 图.jpg" in blue.inner_text()
    scores = [float(each.rstrip("%")) for each in red.locator("ol .row span:last-child").all_inner_texts()]
    assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(100, abs=0.3)
    first, *_, last = [each.bounding_box()["width"] for each in red.locator(".fill").all()]
    track = red.locator(".track").first.bounding_box()["width"]
    assert first / track == pytest.approx(scores[0] / 100, abs=0.01) and last < first
    assert re.search(r"\d+(\.\d)? ms on the server, [\d.]+ m?s in all", red.inner_text())
    assert "blue" in page.locator("#status").inner_text()  # said aloud
    shot = pixels(red.locator(".picture"))
    assert (shot.reshape(-1, 3) == (250, 20, 20)).all(1).mean() > 0.6
    page.click("#clear")
    assert page.locator(".card").count() == 0 and page.evaluate("document.activeElement.id") == "choose"


def pixels(locator):
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def test_paste_and_drop(visit, server):
    page = visit(server.url, permissions=["clipboard-read", "clipboard-write"])
    copy(page, RED[2])
    page.keyboard.press("Control+V")
    page.wait_for_selector(".card.done")
    assert best(page.locator(".card")) == "red" and "Pasted picture" in page.locator(".card").inner_text()
    drop(page, BLUE)
    page.wait_for_selector(".card.done >> nth=1")
    assert best(page.locator(".card").first) == "blue"
    assert page.locator("body.over").count() == 0
    page.evaluate("navigator.clipboard.writeText('no picture')")
    page.keyboard.press("Control+V")
    wait_for(lambda: "no picture" in page.locator("#notice").inner_text())


def copy(page, content):
    """A picture in the clipboard, as another program would leave it."""
    page.evaluate(
        """async (text) => {
            const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
            const blob = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(content).decode(),
    )


def drop(page, file):
    name, kind, content = file
    data = page.evaluate_handle(
        """([name, type, text]) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
            data.items.add(new File([bytes], name, { type }));
            return data;
        }""",
        [name, kind, base64.b64encode(content).decode()],
    )
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": data})
    assert page.locator("#lead").inner_text() == "Let go to classify"
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})


def test_wrong_files(visit, server):
    page = visit(server.url)
    big = ("big.bmp", "image/bmp", b"BM" + bytes(2**20))
    upload(page, ("report.pdf", "application/pdf", b"%PDF-1.7 no picture"), big, ("empty.png", "image/png", b""), RED)
    page.wait_for_selector(".card.done")
    report, large, empty, red = page.locator(".card").all()
    assert "report.pdf is not a picture" in report.inner_text() and "No preview" in report.inner_text()
    assert "1 MiB" in large.inner_text() and "Scale it down" in large.inner_text()
    assert "empty" in empty.locator(".message").inner_text()
    assert best(red) == "red"
    assert page.get_by_text("Try again").count() == 0  # the same file would fail again


def test_server_down_and_back(visit):
    server = Server(Tints(), language="en")
    page = visit(server.url)
    server.stop()
    upload(page, RED, BLUE)
    page.wait_for_selector("#held:not([hidden])")
    assert "does not answer" in page.locator("#held").inner_text()
    assert page.locator("#held").get_attribute("role") == "alert"
    assert [best(each) for each in page.locator(".card").all()] == ["Waiting …"] * 2
    assert faults(page) == []
    server.start()
    page.wait_for_selector(".card.done >> nth=1")  # by itself
    assert [best(each) for each in page.locator(".card").all()] == ["red", "blue"]
    assert page.locator("#held").is_hidden()
    server.stop()


def test_a_page_that_opens_before_the_server_is_ready(visit):
    """Whatever stands before the server answers 503 meanwhile."""
    server = Server({"tints": Tints(), "mood": Mood()}, language="en")
    page = visit(server.url)
    page.route("**/models", lambda route: route.fulfill(status=503, body="starting"))
    page.reload()
    page.wait_for_selector("#held:not([hidden])")
    page.unroute("**/models")
    page.wait_for_selector("#pick:not([hidden])")
    assert page.locator("#model option").all_inner_texts() == ["tints", "mood"]
    server.stop()


def test_busy(visit):
    server = Server(Tints(), language="en", rate=Rate(1, 3.0))
    page = visit(server.url)  # which asked for the models: that was this client's request
    upload(page, RED)
    page.wait_for_selector("#held:not([hidden])")
    said = page.locator("#held p").inner_text()
    assert "busy" in said and int(re.search(r"in (\d+) s", said)[1]) in (1, 2, 3)
    page.wait_for_selector(".card.done")
    assert best(page.locator(".card")) == "red" and page.locator("#held").is_hidden()
    server.stop()


def test_key(visit):
    server = Server(Tints(), language="en", keys=(b"open sesame",))
    page = visit(server.url)
    page.wait_for_selector("#secret:focus")
    upload(page, RED)
    page.fill("#secret", "wrong")
    page.keyboard.press("Enter")
    wait_for(lambda: "did not accept" in page.locator("#notice").inner_text())
    assert faults(page) == []
    page.fill("#secret", "open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card.done")
    assert page.locator("#key").is_hidden() and page.locator("#notice").inner_text() == ""
    assert page.evaluate("JSON.stringify(sessionStorage)") == '{"fromzero.key":"open sesame"}'
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.reload()
    upload(page, BLUE)  # not asked again in this tab
    page.wait_for_selector(".card.done")
    server.stop()


def test_heat_map(visit, server):
    page = visit(server.url)
    half = Image.new("RGB", (64, 48), (20, 20, 20))
    half.paste((250, 20, 20), (8, 0, 24, 48))
    stream = io.BytesIO()
    half.save(stream, "PNG")
    upload(page, ("half.png", "image/png", stream.getvalue()))
    page.wait_for_selector(".card.done")
    plain = pixels(page.locator(".picture"))
    page.click("text=Show heat map")
    page.wait_for_selector("canvas")
    assert page.locator("canvas").get_attribute("aria-label") in (
        "Heat map for red: strongest on the left",
        "Heat map for red: strongest at the top left",
        "Heat map for red: strongest at the bottom left",
    )
    assert "The brighter a place" in page.locator(".heat").inner_text()
    changed = np.abs(pixels(page.locator(".picture")) - plain).sum(2) > 30
    size = changed.shape[0]
    assert changed.mean() > 0.05
    columns = np.flatnonzero(changed.any(0)) / size
    assert columns.min() > 0.1 and columns.mean() < 0.5  # over the square that the model saw, on the side of the red
    assert page.evaluate("document.activeElement.dataset.role") == "heat"
    assert faults(page) == []
    page.select_option(".heat select", "blue")
    page.wait_for_selector("canvas[aria-label*=blue]")
    page.click("text=Hide heat map")
    assert page.locator("canvas").count() == 0
    assert np.array_equal(pixels(page.locator(".picture")), plain)


@pytest.mark.parametrize("status", [404, 501])
def test_no_heat_map_where_the_server_has_none(visit, server, status):
    page = visit(server.url)
    page.route("**/explain*", lambda route: route.fulfill(status=status, json={"code": "none", "message": "none"}))
    upload(page, RED, BLUE)
    page.wait_for_selector(".card.done >> nth=1")
    page.locator("text=Show heat map").first.click()
    wait_for(lambda: page.locator(".heat").count() == 0)
    assert "no heat maps" in page.locator("#status").inner_text()


def test_texts(visit, server):
    page = visit(server.url)
    page.select_option("#model", "mood")
    assert page.locator("h1").inner_text() == "Which class is this text?"
    assert page.locator("#drop").is_hidden()
    page.fill("#words", "quite good <b>this</b>")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".card.done")
    assert best(page.locator(".card")) == "positive" and page.locator(".card b").count() == 0
    page.fill("#words", "  ")
    page.click("#write button")
    assert "nothing in it" in page.locator("#notice").inner_text()
    drop_text(page, "letter.txt", "dull")
    page.wait_for_selector(".card.done >> nth=1")
    assert best(page.locator(".card").first) == "negative" and "dull" in page.locator(".card").first.inner_text()
    assert faults(page) == []


def drop_text(page, name, text):
    data = page.evaluate_handle(
        "([name, text]) => { const data = new DataTransfer(); data.items.add(new File([text], name)); return data; }",
        [name, text],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": data})


def test_tables(visit, server):
    page = visit(server.url)
    page.select_option("#model", "loans")
    page.get_by_label("amount").fill("400")
    page.get_by_label("housing").select_option("own")
    page.click("#fill button")
    page.wait_for_selector(".card.done")
    assert best(page.locator(".card")) == "good" and "400" in page.locator(".card").inner_text()
    page.fill("#words", 'amount;housing;credit\n2500;"rent";bad\n100;own;"good ""1"""')
    page.click("#write button")
    page.wait_for_selector(".card.done >> nth=2")
    assert [best(each) for each in page.locator(".card").all()] == ["bad", "good", "good"]
    assert "credit" not in page.locator("#cards").inner_text()  # no column that the model knows
    page.fill("#words", '[{"amount": 90000}, {"housing": "own", "amount": "x"}]')
    page.click("#write button")
    page.wait_for_selector(".card.wrong")
    assert "amount" in page.locator(".card.wrong .message").inner_text()
    for text, said in (("amount", "names of the columns"), ('a\n"b', "quotation mark"), ("{", "No rows")):
        page.fill("#words", text)
        page.click("#write button")
        assert said in page.locator("#notice").inner_text()
    assert faults(page) == []


def chinese(text):
    return re.search(r"[\u4e00-\u9fff]", text)


@pytest.mark.parametrize("model", ["tints", "mood", "loans"])
def test_both_languages_as_seen(visit, server, model):
    page = visit(server.url, locale="zh-CN")
    page.select_option("#model", model)
    if model == "tints":
        upload(page, RED, ("x.png", "image/png", b"x"))
        page.wait_for_selector(".card.done")
        page.click("text=显示热力图")
        page.wait_for_selector("canvas")
        assert chinese(page.locator("canvas").get_attribute("aria-label"))
    seen = page.locator("[data-say]:visible, .card p, .card button").all_inner_texts()
    own = {"red.png · tints", "x.png · tints", "red"}  # names, not words
    assert [each for each in seen if not chinese(each) and each not in {"English", *own}] == []
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.click("text=English")
    page.wait_for_selector(".message:has-text('not a picture')" if model == "tints" else "h1")
    seen = page.locator("[data-say]:visible, .card p, .card button").all_inner_texts()
    assert [each for each in seen if chinese(each) and each != "中文"] == []
    assert page.url.endswith("?lang=en") and page.title() in page.locator("h1").inner_text()


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(visit, server, language, scheme):
    page = visit(server.url, **PHONE, locale=language, color_scheme=scheme)
    assert page.locator("label[for=camera]").is_visible()
    assert page.locator("#camera").get_attribute("capture") == "environment"
    upload(
        page, RED, ("a-very-long-name-without-a-single-space-in-it-" * 3 + ".png", "image/png", b"x"), field="#choose"
    )
    page.wait_for_selector(".card.done")
    page.locator(".heat button").click()
    page.wait_for_selector("canvas")
    assert fits(page) and faults(page) == []
    for each in page.locator("button:visible, .button:visible, select:visible").all():
        assert each.bounding_box()["height"] >= 36, each.inner_text()
    corner = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))[-1, 0]
    assert (corner < 60) == (scheme == "dark")
    for model in ("mood", "loans"):
        page.select_option("#model", model)
        assert fits(page) and faults(page) == []


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_with_the_keyboard_alone(visit, server):
    page = visit(server.url)
    page.on("filechooser", lambda chooser: None)  # from now on it is caught: asked for below, a key can be faster
    page.locator("#model").wait_for()  # the page has asked which models there are
    order = []
    for _ in range(4):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
        ring = page.evaluate(
            """() => [document.activeElement, document.activeElement.nextElementSibling]
                .some((each) => each && parseFloat(getComputedStyle(each).outlineWidth) >= 2
                    && getComputedStyle(each).outlineStyle === "solid")"""
        )
        assert ring, order
    assert order == ["docs", "language", "model", "choose"]
    page.focus("#choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": RED[0], "mimeType": RED[1], "buffer": RED[2]})
    page.wait_for_selector(".card.done")
    page.locator(".heat button").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("canvas")
    assert page.evaluate("document.activeElement.dataset.role") == "heat"  # where it was, though all was drawn anew
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.role") == "label"


@pytest.mark.parametrize("device", [{}, PHONE], ids=["desktop", "phone"])
def test_the_api_page(visit, browser, device):
    server = Server({"mood": Mood(), "tints": Tints()}, language="en", keys=(b"key",))
    page = visit(f"{server.url}docs", **device)
    page.wait_for_selector("details")
    assert "x-api-key: KEY" in page.locator("#start").inner_text() and '{"text"' in page.locator("#start").inner_text()
    page.fill("#secret", "key")
    first = page.locator("details").first
    assert first.locator(".path").inner_text() == "/predict"
    first.locator("textarea").fill('{"text": "good"}')
    first.get_by_text("Send", exact=True).click()
    page.wait_for_selector(".try pre:not([hidden])")
    assert '"positive"' in first.locator(".try pre").inner_text()
    pictures = page.locator("details", has_text="/models/tints/predict").first
    pictures.locator("summary").click()
    pictures.locator("input[type=file]").set_input_files({"name": RED[0], "mimeType": RED[1], "buffer": RED[2]})
    pictures.get_by_text("Send", exact=True).click()
    pictures.locator(".try pre").wait_for()
    assert '"red"' in pictures.locator(".try pre").inner_text()
    assert fits(page) and faults(page) == []
    server.stop()


def test_the_api_page_asks_for_no_key_where_none_is_needed(visit, server):
    page = visit(f"{server.url}docs")
    page.wait_for_selector("details")
    assert page.locator("#key").is_hidden() and "KEY" not in page.locator("#start").inner_text()
