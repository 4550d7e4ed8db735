"""The page: self-contained, escaped, sortable, and right for nothing, much, and failures."""

from __future__ import annotations

import base64
import hashlib
import html
import html.parser
import math
import re
from pathlib import Path
from typing import Any

import pytest

from everypoint.config.options import ReportOptions
from everypoint.report import media
from everypoint.report.data import Failure, PresetReport, StageTime, VideoReport
from everypoint.report.html import write_report
from tests.unit.report.made import meta, metrics, small_mp4, video

HOSTILE = "<img src=x onerror=\"alert('1')\">&'\"</script><script>alert(2)</script>日本 #?%=\ud800"
SOFTWARE = {
    "versions": [{"name": "numpy", "version": "2", "licence": "BSD"}],
    "weights": [
        {"name": "raft-things", "licence": "BSD-3-Clause", "used_by": "chain: flow", "sha256": "ab" * 32, "note": ""}
    ],
    "presets": {"chain": "Chains of flows."},
    "machine": "Linux",
}
VOID = {"meta", "input", "br", "img", "link"}


class _Page(html.parser.HTMLParser):
    """Every start tag with its attributes, and the text of the page; checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _write(folder: Path, videos: list[VideoReport], **options: Any) -> tuple[_Page, str]:
    """The page, parsed and as text; software is SOFTWARE unless given."""
    software = options.pop("software", SOFTWARE)
    write_report(folder / "report.html", folder / "metrics.csv", videos, ReportOptions(**options), software)
    text = (folder / "report.html").read_text()
    page = _Page(text)
    assert page.open == []
    return page, text


def _full(folder: Path, name: str = "dog", preset: str = "cpu") -> VideoReport:
    """A video with all there is."""
    clip = small_mp4(folder / "dog/overlay.mp4")
    result = PresetReport(
        metrics=metrics(0.5),
        overlay=clip,
        trails=small_mp4(folder / "dog/trails.mp4"),
        filter_stats={"by_gap": {"1": 0.9, "2": 0.7}},
        train_rows=[{"step": step, "loss": 3.0 / (step + 1)} for step in range(20)],
    )
    stages = [StageTime("flow", "raft-123abc", 65.0, 2048.0), StageTime("tracks", preset, 0.2, None)]
    results = {"chain": PresetReport(metrics=metrics(0.3), overlay=clip), preset: result}
    return VideoReport(name, meta(name, cuts=[4]), results, stages)


def test_all_parts_are_there(tmp_path: Path) -> None:
    page, text = _write(tmp_path, [_full(tmp_path)], title="My videos")
    assert "<title>My videos</title>" in text
    for words in (
        "Mean over videos",
        "strided/5",
        "8 frames",
        "worked at 64×48",  # noqa: RUF001
        "scored at 256×256",  # noqa: RUF001
        "50.0",
        "AJ by frame (strided)",
        "Median error by frame (strided)",
        "Points within a threshold (strided)",
        "Matches kept by the filter",
        "Training loss",
        "Time and memory",
        "2.0 GB",
        "65.0 s",
        "raft-things",
        "BSD-3-Clause",
        "Chains of flows.",
        "shot cut at frame 4",
    ):
        assert words in page.text, words
    assert [file.name for file in tmp_path.glob("*.*")].count("metrics.csv") == 1


@pytest.mark.parametrize("limit", [20.0, 1e-6])
def test_the_page_refers_to_nothing_outside(tmp_path: Path, limit: float) -> None:
    page, text = _write(tmp_path, [_full(tmp_path)], max_video_mb=limit)
    assert not re.search(r"(?i)https?:|//[a-z0-9-]+\.[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert not re.search(r"(?i)@import|url\(", text)
    assert page.all("link") == page.all("iframe") == page.all("object") == page.all("img") == []
    for tag, attributes in page.tags:
        for key in ("src", "href", "poster", "data", "srcset", "action"):
            value = attributes.get(key)
            if value is not None:
                assert value.startswith(("data:video/mp4;base64,", "data:image/jpeg;base64,", "./", "#")), (
                    tag,
                    key,
                    value,
                )
        assert not any(key.startswith("on") or key == "style" for key in attributes)


def test_the_policy_allows_this_script_and_style_only(tmp_path: Path) -> None:
    page, text = _write(tmp_path, [_full(tmp_path)])
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag in ("script", "style"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_small_videos_are_embedded_and_lazy_and_have_a_poster(tmp_path: Path) -> None:
    page, _ = _write(tmp_path, [_full(tmp_path)])
    players = page.all("video")
    assert len(players) == 3
    for player in players:
        assert player["preload"] == "none"
        assert player["aria-label"]
        assert (player["width"], player["height"]) == ("64", "48")
        assert base64.b64decode(player["poster"].removeprefix("data:image/jpeg;base64,"))[:3] == b"\xff\xd8\xff"
    data = base64.b64decode(players[0]["src"].removeprefix("data:video/mp4;base64,"))
    assert data == (tmp_path / "dog/overlay.mp4").read_bytes()


def test_large_videos_are_linked_beside_the_page(tmp_path: Path) -> None:
    page, text = _write(tmp_path, [_full(tmp_path)], max_video_mb=1e-6)
    assert {player["src"] for player in page.all("video")} == {"./dog/overlay.mp4", "./dog/trails.mp4"}
    assert "open the file" in page.text
    assert len(text) < 150_000


def test_a_full_page_links_what_comes_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [small_mp4(tmp_path / f"{k}.mp4") for k in range(4)]
    size = clips[0].stat().st_size / 1e6
    monkeypatch.setattr(media, "EMBED_TOTAL_MB", 2.5 * size)
    plan = media.plan_clips(clips, tmp_path / "report.html", 20.0)
    assert [plan[clip].embedded for clip in clips] == [True, True, False, False]


def test_a_video_file_that_is_none_or_missing_is_no_reason_to_fail(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    results = {"chain": PresetReport(overlay=broken, trails=tmp_path / "absent.mp4")}
    page, _ = _write(tmp_path, [VideoReport("a", meta("a"), results)])
    (player,) = page.all("video")
    assert "poster" not in player


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)> '#?%"
    clip = small_mp4(folder / 'o".mp4')
    scores = metrics(0.5, HOSTILE)
    scores["protocol"] |= {"working_size": [HOSTILE, HOSTILE], "frames": HOSTILE}
    trouble = Failure(HOSTILE, HOSTILE, HOSTILE)
    filters = {"by_gap": {"1": 0.5, HOSTILE: 0.5}}
    training = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    result = PresetReport(scores, clip, clip, filters, training, trouble)
    hostile = VideoReport(
        HOSTILE,
        meta(HOSTILE, source=HOSTILE, warnings=[HOSTILE], fps=24.0),
        {HOSTILE: result, "other" + HOSTILE: result},
        [StageTime(HOSTILE, HOSTILE, 1.0, 2.0)],
        [HOSTILE],
        trouble,
    )
    row = dict.fromkeys(("name", "version", "licence", "used_by", "sha256", "note"), HOSTILE)
    software = {"versions": [row], "weights": [row], "presets": {HOSTILE: HOSTILE}, "machine": HOSTILE}
    page, text = _write(tmp_path, [hostile], title=HOSTILE, max_video_mb=1e-6, software=software)
    assert page.all("img") == []
    assert len(page.all("script")) == 1
    assert "alert(" not in re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0]
    assert not re.search(r"<img|<script[^>]|onerror=[\"']", text)
    for _, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes)
    seen = HOSTILE.replace("\ud800", "?")
    assert page.text.count(" ".join(seen.split())) > 12
    (source,) = {player["src"] for player in page.all("video")}
    assert re.fullmatch(r"\./[A-Za-z0-9%._/-]+", source)
    assert html.escape(HOSTILE.replace("\ud800", "?")) in text or "&lt;img src=x onerror=" in text


def test_tables_can_be_sorted(tmp_path: Path) -> None:
    page, text = _write(tmp_path, [_full(tmp_path), video("b")])
    assert len([table for table in page.all("table") if "sortable" in table["class"]]) >= 6
    values = [cell["data-sort"] for cell in page.all("td") if "data-sort" in cell]
    assert len(values) > 30
    for value in values:
        assert value == "" or math.isfinite(float(value))
    for words in ("aria-sort", "localeCompare", 'createElement("button")'):
        assert words in text
    assert all(region.get("aria-label") for region in page.all("div") if region.get("role") == "region")
    assert all(drawing.get("aria-label") or drawing.get("aria-hidden") for drawing in page.all("svg"))


def test_missing_and_nan_values_are_dashes_and_said(tmp_path: Path) -> None:
    def measured(value: float | None, **scores: Any) -> dict[str, PresetReport]:
        return {"chain": PresetReport(metrics=metrics(value, **scores))}

    videos = [
        video("a", results=measured(None, temporal_coherence=math.nan)),
        video("b", results=measured(0.5)),
        video("c", results=measured(0.7)),
    ]
    page, text = _write(tmp_path, videos)
    assert "60.0" in page.text
    assert "nan" not in re.sub(r"base64,\S+|<script>.*?</script>", "", text, flags=re.DOTALL).lower()
    assert "AJ over 2, TC over 2" in page.text
    assert "1 of 3 videos have no value" in text


def test_presets_measured_on_different_videos_are_said(tmp_path: Path) -> None:
    page, _ = _write(tmp_path, [video("a"), video("b", ["chain"])])
    assert "Presets were measured on different videos (chain 2, cpu 1)" in page.text
    page, _ = _write(tmp_path, [video("a"), video("b")])
    assert "different videos" not in page.text


def test_mixed_protocols_are_said(tmp_path: Path) -> None:
    other = metrics(0.5)
    other["protocol"] |= {"frames": 99}
    page, _ = _write(tmp_path, [video("a", ["chain"]), video("b", results={"chain": PresetReport(metrics=other)})])
    assert "mixed: frames" in page.text


def test_the_best_preset_of_a_column_is_marked(tmp_path: Path) -> None:
    one = {
        "chain": PresetReport(metrics=metrics(0.3)),
        "cpu": PresetReport(metrics=metrics(0.5, temporal_coherence=9.0)),
    }
    _, text = _write(tmp_path, [video("a", results=one)])
    best = re.findall(r'class="num best" data-sort="([^"]+)"', text)
    assert "0.5" in best
    assert "0.3" not in best
    assert "1.5" in best  # temporal coherence: lower is better
    assert "9.0" not in best


def test_no_videos(tmp_path: Path) -> None:
    page, _ = _write(tmp_path, [], software={})
    assert "There are no videos in this report" in page.text
    assert page.all("video") == []


def test_no_ground_truth_anywhere(tmp_path: Path) -> None:
    results = {"chain": PresetReport(overlay=small_mp4(tmp_path / "o.mp4"))}
    page, _ = _write(tmp_path, [VideoReport("a", meta("a"), results)])
    assert "No video brought ground truth" in page.text
    assert len(page.all("video")) == 1
    assert page.all("select") == []


def test_failures_are_told_with_their_sentence_and_log(tmp_path: Path) -> None:
    failed = VideoReport("text", failure=Failure("frames", "text.mp4 is not a video.", "results/text/logs/frames.log"))
    half = video("half", results={"cpu": PresetReport(failure=Failure("optimize", "The loss is not finite."))})
    page, _ = _write(tmp_path, [failed, half, video("good")])
    assert "stage frames failed. text.mp4 is not a video." in page.text
    assert "results/text/logs/frames.log" in page.text
    assert "cpu: stage optimize failed. The loss is not finite." in page.text
    assert "2 failed" in page.text


def test_many_videos_start_closed_and_can_be_searched(tmp_path: Path) -> None:
    clip = small_mp4(tmp_path / "o.mp4")
    videos = [
        video(f"clip-{k:03d}", results={"chain": PresetReport(metrics=metrics(k / 200), overlay=clip)})
        for k in range(200)
    ]
    page, text = _write(tmp_path, videos)
    sections = [one for one in page.all("details") if "video" in (one.get("class") or "").split()]
    assert len(sections) == 200
    assert not any("open" in one for one in sections)
    assert len({one["id"] for one in sections}) == 200
    assert any(one.get("type") == "search" for one in page.all("input"))
    assert len(text) < 200 * 60_000
    few, _ = _write(tmp_path, videos[:2])
    assert sum("open" in one for one in few.all("details")) == 2


def test_ids_are_unique_and_links_have_their_target(tmp_path: Path) -> None:
    page, _ = _write(tmp_path, [_full(tmp_path), video("b")])
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [one["href"] for one in page.all("a") if one["href"].startswith("#")]
    assert links
    assert {link[1:] for link in links} <= set(ids)


def test_equal_input_gives_an_equal_page(tmp_path: Path) -> None:
    _, first = _write(tmp_path, [_full(tmp_path)])
    _, second = _write(tmp_path, [_full(tmp_path)])
    assert first == second
