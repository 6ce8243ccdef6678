"""The page at `/` and the gallery's routes, through the gateway's application."""

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from storyreason import page
from storyreason.dataset import Example
from storyreason.errors import DataError
from storyreason.format.answer import join
from storyreason.serving.config import ServingConfig
from storyreason.serving.gateway import application


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: list[Example]) -> Iterator[TestClient]:
    """A gateway whose gallery has one story."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    one = examples[0]
    shown = page.view(one.story_id, one.images, reference=join(one.chain_of_thought, one.story))
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/one.html").write_text(page.render([shown], one.story_id))
    app, _ = application(ServingConfig(gallery=str(tmp_path / "pages")))
    yield TestClient(app, base_url="http://127.0.0.1")


def test_the_page_is_one_file_whose_policy_names_its_script_and_style(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    script = re.findall(r'<script type="module">(.*?)</script>', answer.text, re.DOTALL)[-1]
    style = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)[0]
    for kind, content in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    # nothing of it comes from elsewhere
    assert not re.search(r"""(src|href)=["'](?!data:|#)|@import|url\(""", answer.text)
    assert set(re.findall(r"https?://[\w.]+", answer.text)) == {"http://www.w3.org"}  # the name of SVG


def test_gallery_stories_are_addressed_as_the_list_says(client: TestClient, examples: list[Example]) -> None:
    index = client.get("/v1/stories/gallery").json()["collections"]
    assert [[story["id"] for story in one["stories"]] for one in index] == [[examples[0].story_id]]
    address = index[0]["stories"][0]["address"]
    page = address.partition("/")[0]
    assert client.get(f"/v1/stories/gallery/{address}").json()["id"] == examples[0].story_id
    for path in (f"{page}/1", "0/0", f"{page}/-1", f"{page}/..%2f..%2fetc%2fpasswd", f"{page}/one.html", page):
        assert client.get(f"/v1/stories/gallery/{path}").status_code == 404, path


def test_without_a_gallery_the_index_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    app, _ = application(ServingConfig())
    client = TestClient(app, base_url="http://127.0.0.1")
    assert client.get("/v1/stories/gallery").json() == {"collections": []}
    assert client.get("/v1/stories/gallery/0/0").status_code == 404


def test_a_missing_gallery_folder_is_reported_at_startup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    with pytest.raises(DataError, match=r"There is no folder .*nowhere"):
        application(ServingConfig(gallery=str(tmp_path / "nowhere")))
