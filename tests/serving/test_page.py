"""The pages stand alone, speak both languages, and let nothing in from outside as code."""

import base64
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest
from starlette.testclient import TestClient

from fromzero.language import catalogue
from fromzero.records import Preprocessing
from fromzero.serving.app import application


class Evil:
    """A model whose name tries to leave its place in the page."""

    name = "</script><script>alert(1)</script><!--\u2028{{data}}"
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
