"""Pages are self-contained, escape what they are given, and say what is missing; citations are complete."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from conform_bids.report import citations
from conform_bids.report.citations import Methods, bibtex, cite_inline, format_citations, list_references
from conform_bids.report.page import Facts, Figure, Link, Note, References, Section, Table, Text, make_anchor, write_page

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def parse(path):
    parser = Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser.tags


@pytest.fixture
def everything(tmp_path):
    image = tmp_path / "plot.svg"
    image.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", encoding="utf-8")
    items = [
        Text(f"{HOSTILE}\n\n# {HOSTILE}\n\nwith **{HOSTILE}** and [@prince2022glmsingle]"),
        Table(
            [HOSTILE],
            [[HOSTILE], [Link(HOSTILE, "sub-01_ses-a b.html")], [Link("on page", "#there")], [1.23456], [float("nan")], [12345]],
            HOSTILE,
        ),
        Figure(image, HOSTILE, HOSTILE, HOSTILE),
        Figure(tmp_path / "missing.png", "caption", "alt"),
        Facts([(HOSTILE, HOSTILE, HOSTILE)]),
        Note(HOSTILE),
        References(["prince2022glmsingle"]),
        Section(HOSTILE, make_anchor(HOSTILE), [Note("inner")], folded=True),
    ]
    return write_page(
        tmp_path / "page.html",
        title=HOSTILE,
        subtitle=HOSTILE,
        sections=[Section(HOSTILE, "there", items)],
        about={HOSTILE: HOSTILE},
        errors=[HOSTILE],
    )


def test_nothing_given_becomes_markup(everything):
    tags = parse(everything)
    assert not [tag for tag, _ in tags if tag in ("script", "iframe", "object", "embed", "link", "svg")]
    assert not [attributes for _, attributes in tags if any(name.startswith("on") for name in attributes)]
    assert all((attributes["src"] or "").startswith("data:image/") for tag, attributes in tags if tag == "img")


def test_page_fetches_nothing_and_its_links_lead_somewhere(everything):
    text, tags = everything.read_text(encoding="utf-8"), parse(everything)
    assert "@import" not in text and "url(" not in text
    anchors = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(anchors) == len(set(anchors)), "an anchor stands twice"
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert {link[1:] for link in links if link.startswith("#")} <= set(anchors)
    assert "sub-01_ses-a%20b.html" in links


def test_page_says_what_is_missing_and_shows_numbers_as_numbers(everything):
    text = everything.read_text(encoding="utf-8")
    assert "This figure is missing: missing.png" in text
    assert "</table></div>\n<figcaption>" in text  # a caption does not scroll with a wide table
    for shown in (">1.235<", ">n/a<", ">12,345<", "(Prince et al., 2022)", "1 error occurred"):
        assert shown in text


def test_page_without_errors_says_so_and_leaves_no_other_file(tmp_path):
    write_page(tmp_path / "a.html", title="t", subtitle="s", sections=[], about={}, errors=[])
    assert "No errors to report." in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_a_lone_surrogate_from_a_broken_file_does_not_stop_the_page(tmp_path):
    page = write_page(tmp_path / "a.html", title="\udcff", subtitle="", sections=[], about={}, errors=[])
    assert page.is_file()


def test_every_reference_is_complete():
    entries = citations.references()
    assert len(entries) >= 15
    for key, entry in entries.items():
        assert entry.authors and entry.fields["title"] and re.fullmatch(r"(19|20)\d\d", entry.year), key
        # not every journal gives DOIs: the Journal of Machine Learning Research and NeurIPS have addresses
        addresses = ("https://jmlr.org/", "https://proceedings.neurips.cc/")
        assert re.fullmatch(r"10\.\d{4,9}/\S+", entry.fields.get("doi", "")) or entry.fields["url"].startswith(addresses), key
        assert entry.label.endswith(entry.year) and "{" not in entry.text, key


def test_citations_in_every_form():
    keys = ["rokem2020fracridge", "prince2022glmsingle", "prince2022glmsingle"]
    assert [entry.key for entry in list_references(keys)] == ["prince2022glmsingle", "rokem2020fracridge"]
    assert "Paszke A., Gross S., Massa F., Lerer A., Bradbury J., Chanan G., et al. (2019)." in format_citations(["paszke2019pytorch"])
    assert "Hunter J. D. (2007)." in format_citations(["hunter2007matplotlib"])
    assert format_citations(keys).count("\n- ") == 1 and "<https://doi.org/10.7554/eLife.77599>" in format_citations(keys)
    assert bibtex(keys).count("@article{") == 2 and bibtex(keys).count("\n}\n") == 2
    assert cite_inline("x [@rokem2020fracridge; @hunter2007matplotlib].") == "x (Rokem & Kay, 2020; Hunter, 2007)."
    assert cite_inline("mail [@nobody] stays") == "mail [@nobody] stays"


def test_methods_collect_their_keys_and_refuse_unknown_ones():
    assert Methods.of("a [@kay2013glmdenoise] b [@nilearn; @kay2013glmdenoise]").keys == ("kay2013glmdenoise", "nilearn")
    with pytest.raises(KeyError):
        Methods.of("[@nobody2000]")
