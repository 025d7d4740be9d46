"""Both forms of the report: whole, equal, escaped, and readable without anything else."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluation.fakes import failed, made_up, row
from hypersteer.errors import SteeringError
from hypersteer.evaluation.findings import Findings
from hypersteer.report.document import notices, pick
from hypersteer.report.evaluate import write_report
from hypersteer.report.published import HYPERSTEER_TABLE_1
from hypersteer.report.summary import summarise

NASTY = (
    "<script>alert(1)</script> | a\nb **c** [x](javascript:y) `d` &amp; <img src=x onerror=z>\n---"
)
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """A parsed page: its elements with attributes, its tables as rows of (text, span), its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.tables, self.text = [], [], [], []
        self.captions = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append(["", int(attributes.get("colspan", 1))])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
        if self.open and self.open[-1] == "caption":
            self.captions.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1][0] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    markdown, html = write_report(tmp_path_factory.mktemp("report"), made_up())
    return markdown.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")


def nasty():
    texts = dict.fromkeys(("concept", "instruction", "given", "response", "concept_reason"), NASTY)
    rows = [row(f"m|{NASTY}", prompt_id=p, strength=s, **texts) for p in range(4) for s in (1, 2)]
    rows.append(failed(method="other", prompt_id=0, error=NASTY, concept=NASTY))
    return Findings(
        rows=rows,
        config={"name": NASTY, "nested": {"list": [1, 2], "none": None}},
        compare_to=f"m|{NASTY}",
        about={"Judge": NASTY},
    )


def test_the_page_is_well_formed_and_needs_nothing_else(written):
    page = Page(written[1])
    assert not {"script", "iframe", "img", "object", "form"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), tag
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert not re.search(r"url\(|@import|https?:", written[1])


def test_tables_are_accessible_and_even(written):
    page = Page(written[1])
    assert len(page.captions) == len(page.tables) == 8
    for table in page.tables:
        widths = {sum(span for _, span in cells) for cells in table}
        assert len(widths) == 1
    links = [a["href"][1:] for tag, a in page.elements if tag == "a"]
    names = [a["id"] for _, a in page.elements if "id" in a]
    assert len(names) == len(set(names))
    assert set(links) <= set(names)


def test_table_1_holds_ours_beside_the_published(written):
    table = Page(written[1]).tables[0]
    found = {cells[0][0]: [text.split() for text, _ in cells[1:]] for cells in table}
    overall = summarise(made_up()).scores["cross-attention", "held_in"].overall
    ours = found["cross-attention"][1]
    assert ours == [
        f"{overall.mean:.3f}",
        f"[{overall.low:.3f},",
        f"{overall.high:.3f}]",
    ]
    assert found["cross-attention"][4:] == [["0.608"], ["0.742"], ["0.934"], ["1.091"]]
    assert found["DiffMean"][0] == ["\u2013"]
    assert found["LoReFT"][:4] == [["\u2013"]] * 4
    assert found["LoReFT"][5] == ["0.722"]
    order = [name for name in found if name in ("unsteered", "prompt", "DiffMean", "ReFT-r1")]
    assert order == ["unsteered", "prompt", "DiffMean", "ReFT-r1"]


def percent(value):
    return f"{100 * value:.0f} %"


def in_words(interval):
    low, high = percent(interval.low), percent(interval.high)
    return f"{percent(interval.mean)} [{low}, {high}]"


def test_skill_kept_and_refusals_stand_beside_the_scores(written):
    page = Page(written[1])
    tables = page.tables
    measures, order = made_up().measures, tables[0][1]
    places = [[text for text, _ in order].index(name) for name in ("Skill kept", "Refusals")]
    for cells in tables[0]:
        name = cells[0][0]
        if name in measures["skills"]:
            kept, refused = (" ".join(cells[place][0].split()) for place in places)
            expected = measures["skills"][name].kept
            assert kept == ("reference" if name == "unsteered" else in_words(expected))
            assert refused == in_words(measures["refusals"][name].share)
    table = tables[page.captions.index("Skill kept, by kind")]
    assert [text for text, _ in table[1]] == ["Method", "Kept", "All", "Facts", "Copy"]
    for cells in table[2:]:
        found = measures["skills"][cells[0][0]]
        shown = [" ".join(text.split()) for text, _ in cells[2:]]
        assert shown == [in_words(one) for one in (found.share, *found.kinds.values())]
    assert "Share of 20 small tasks" in written[0]


def test_what_was_not_measured_has_no_column(tmp_path):
    only = {"refusals": made_up().measures["refusals"]}
    markdown, _ = write_report(tmp_path, dataclasses.replace(made_up(), measures=only))
    text = markdown.read_text(encoding="utf-8")
    assert "This run: Refusals" in text
    assert "Skill kept" not in text


def test_a_method_that_could_not_be_measured_has_empty_cells(tmp_path):
    measures = {
        measure: {name: values for name, values in found.items() if name != "random"}
        for measure, found in made_up().measures.items()
    }
    measures["skills"]["prompt"] = dataclasses.replace(measures["skills"]["prompt"], kept=None)
    _, html = write_report(tmp_path, dataclasses.replace(made_up(), measures=measures))
    found = {cells[0][0]: cells for cells in Page(html.read_text(encoding="utf-8")).tables[0]}
    assert [text.strip() for text, _ in found["random"][3:5]] == ["\u2013", "\u2013"]
    assert found["prompt"][3][0].strip() == "\u2013"
    assert "%" in found["prompt"][4][0]


def test_published_columns_are_marked(written):
    marked = [(tag, a) for tag, a in Page(written[1]).elements if a.get("class") == "published"]
    # Under their headings: 7 methods of ours and 7 published only, 12 rows, and 2 detectors.
    assert len(marked) == 4 * 15 + 2 * 13 + 2 * 3
    assert "Published, Gemma-2" in written[1]
    assert "another model under another judge" in written[0]


def test_every_figure_is_in_both_forms(written):
    cells = [text for table in Page(written[1]).tables for line in table for text, _ in line]
    figures = {figure for text in cells for figure in re.findall(r"\d+\.\d{2,}", text)}
    assert len(figures) > 200
    assert figures <= set(re.findall(r"\d+\.\d{2,}", written[0]))


def test_markdown_tables_are_even(written):
    for block in written[0].split("\n\n"):
        if block.startswith("|"):
            lines = block.strip().split("\n")
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
            assert re.fullmatch(r"\|( ---:? \|)+", lines[1])


def test_curves_show_every_strength(written):
    page = Page(written[1])
    drawn = [a for tag, a in page.elements if tag == "svg" and a.get("role") == "img"]
    assert len(drawn) == 8
    assert all("strength" in a["aria-label"] for a in drawn)
    points = summarise(made_up()).curves["ReFT-r1", "held_in"]
    for point in points:
        assert f"strength {point.strength:g}: overall {point.overall:.2f}" in "".join(page.text)


def test_a_higher_score_is_drawn_higher(written):
    panel = re.search(r"<svg[^>]*ReFT-r1, held in.*?</svg>", written[1], re.DOTALL).group()
    line = re.search(r'<g class="overall"><path class="line" d="M([^"]+)"', panel).group(1)
    places = [tuple(map(float, point.split(","))) for point in line.split("L")]
    points = summarise(made_up()).curves["ReFT-r1", "held_in"]
    assert len(places) == len(points) == 6
    scale = {round((176 - y) / p.overall, 0) for (_, y), p in zip(places, points, strict=True)}
    assert scale == {82.0}  # 164 pixels for scores from 0 to 2, from the bottom up
    first, *rest = zip((x for x, _ in places), (p.strength for p in points), strict=True)
    steps = [(x - first[0]) / (strength - first[1]) for x, strength in rest]
    assert max(steps) == pytest.approx(min(steps), rel=0.01)


def test_untrusted_text_is_escaped_in_html(tmp_path):
    _, path = write_report(tmp_path, nasty())
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert "<script" not in text
    said = "".join(page.text)
    assert said.count("<script>alert(1)</script>") > 10
    assert "&amp; <img src=x onerror=z>" in said  # as it was, not unescaped on the way


def test_untrusted_text_is_escaped_in_markdown(tmp_path):
    path, _ = write_report(tmp_path, nasty())
    text = path.read_text(encoding="utf-8")
    bare = re.sub(r"\\.", "", text)  # what Markdown would still read as markup
    assert "<" not in bare
    assert "`" not in bare
    assert "](" not in bare
    assert not re.search(r"^> ?---", bare, re.MULTILINE)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().split("\n")}
            assert len(counts) == 1


def test_what_is_missing_is_said_first(tmp_path):
    markdown, html = write_report(tmp_path, nasty())
    head = html.read_text(encoding="utf-8").split("<main>")[0]
    assert "1 of 9 answers could not be judged" in head
    assert "other, held in" in head
    assert "1 of 9 answers could not be judged" in markdown.read_text(encoding="utf-8")
    clean = write_report(tmp_path, made_up(failures=False))[0].read_text(encoding="utf-8")
    assert "could not be judged" not in clean
    assert "all judged" in clean


def test_samples_are_the_best_the_median_and_the_worst():
    overall = [0.9, 0.1, 0.5]
    rows = [row(prompt_id=p, strength=None, overall=o) for p, o in enumerate(overall)]
    summary = summarise(Findings(rows=rows, config={}, compare_to="m"))
    samples = pick(summary.scores["m", "held_in"])
    assert [(s.kind, s.row.overall) for s in samples] == [
        ("best", 0.9),
        ("median", 0.5),
        ("worst", 0.1),
    ]
    single = summarise(Findings(rows=rows[:1], config={}, compare_to="m"))
    assert [s.kind for s in pick(single.scores["m", "held_in"])] == ["best"]


def test_optional_parts_may_be_absent(tmp_path):
    bare = dataclasses.replace(made_up(), costs={}, gaps={}, detection={}, about={}, measures={})
    rows = [r for r in bare.rows if r.method in ("unsteered", "prompt")]
    bare = dataclasses.replace(bare, rows=rows, compare_to="unsteered")
    _, path = write_report(tmp_path, bare)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.captions == [
        "Overall score, held out and held in",
        "Scores, chosen strengths, perplexity and concept gap",
        "Against unsteered, and against the unsteered model",
        "Configuration",
    ]
    assert not [a for tag, a in page.elements if tag == "svg" and a.get("role") == "img"]


def test_one_strength_and_one_held_set(tmp_path):
    rows = [row(prompt_id=p, strength=1.0, held="held_out") for p in range(2)]
    _, path = write_report(tmp_path, Findings(rows=rows, config={}, compare_to="m"))
    page = Page(path.read_text(encoding="utf-8"))
    assert page.tables[0][2][0][0] == "m"
    assert page.tables[0][2][1][0].split() == ["1.000"]  # one concept: no interval
    assert "nan" not in path.read_text(encoding="utf-8").lower()


def test_nothing_is_published_only_where_all_was_run(tmp_path):
    names = list(HYPERSTEER_TABLE_1.rows)
    for methods, left in ((names, 0), (names[1:], 1)):
        rows = [row(method=name, prompt_id=place) for name in methods for place in range(2)]
        findings = Findings(rows=rows, config={}, compare_to=methods[0])
        found = write_report(tmp_path / str(left), findings)
        texts = [file.read_text() for file in found]
        assert ["Published only" in text for text in texts] == [bool(left)] * 2


def test_a_report_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "new" / "folder"
    paths = write_report(folder, made_up())
    before = [path.read_bytes() for path in paths]
    with pytest.raises(SteeringError):
        write_report(folder, dataclasses.replace(made_up(), rows=[]))

    def full(path, text, encoding):
        path.write_bytes(text.encode(encoding)[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_report(folder, dataclasses.replace(made_up(failures=False)))
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        ("likelihood (tiny abc, calibration 3)", True),
        ("local (qwen, calibration 2; asks the steered model)", True),
        ("local (qwen, calibration 2)", False),
    ],
)
def test_a_judge_that_is_the_steered_model_is_told(judge, told):
    findings = dataclasses.replace(made_up(), about={"judge": judge})
    said = " ".join(notices(summarise(findings)))
    assert ("reads with the steered model itself" in said) == told
