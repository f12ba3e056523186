"""The Chinese README and tour say what the English ones say: headings, code, numbers, links.

What is explained inside of code, the comments and the words of the tree, is translated as well; commands, outputs,
names of files and numbers in it are not.
"""

import json
import re

import pytest

from tests.conftest import ROOT

PAIRS = ["README.md README.zh-CN.md", "docs/tour.ipynb docs/tour.zh-CN.ipynb"]
CHINESE = re.compile("[一-鿿]")


def read(name):
    """Returns a page as Markdown; of a notebook the text and the code."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if not name.endswith(".ipynb"):
        return text
    cells = ((cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"])
    return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells)


@pytest.fixture(params=PAIRS)
def pages(request):
    return [read(name) for name in request.param.split()]


def split(text):
    """Returns the blocks of code, and the prose between them."""
    return re.findall(r"```\w*\n.*?```", text, re.DOTALL), re.sub(r"```\w*\n.*?```", "", text, flags=re.DOTALL)


def test_headings_are_as_many_on_the_same_levels(pages):
    english, chinese = (re.findall(r"^(#+) (.*)", split(page)[1], re.MULTILINE) for page in pages)
    assert [level for level, _ in chinese] == [level for level, _ in english]
    assert sum(bool(CHINESE.search(title)) for _, title in chinese) >= len(english) - 1, "fmnist has one name"
    assert not any(CHINESE.search(title) for _, title in english)


def facts(line):
    """Returns what stays in a line of code whose words are translated: names of files, options and numbers."""
    return re.findall(r"--[\w.]+|[\w*-]+/|[\w*-]+(?:\.\w+)+|\d+", line.partition("](")[0], re.ASCII)


def test_code_is_the_same(pages):
    english, chinese = (split(page)[0] for page in pages)
    assert len(chinese) == len(english)
    for ours, theirs in zip(english, chinese, strict=True):
        for line, translated in zip(ours.splitlines(), theirs.splitlines(), strict=True):
            if CHINESE.search(translated):
                assert facts(translated) == facts(line)
            else:
                assert translated == line


def test_the_trees_name_the_same_files_and_the_same_links_are_given(pages):
    english, chinese = pages
    assert sorted(re.findall(r"[\w-]+\.\w+", "".join(split(chinese)[0]), re.ASCII)) == sorted(
        re.findall(r"[\w-]+\.\w+", "".join(split(english)[0]), re.ASCII)
    )
    links = [{link.replace(".zh-CN", "") for link in re.findall(r"\]\(([^#)][^)]*)\)", page)} for page in pages]
    assert links[0] - {"README.md"} == links[1] - {"README.md"}


def numbers(text):
    """Returns every number of the prose, in order of size; links have names that count as well."""
    return sorted(re.findall(r"\d[\d,.]*\d|\d", re.sub(r"\([^()]*\.zh-CN[^()]*\)", "", text)))


def test_prose_has_the_same_numbers(pages):
    english, chinese = (numbers(split(page)[1]) for page in pages)
    assert chinese == english


def test_each_readme_leads_to_the_other():
    english, chinese = map(read, PAIRS[0].split())
    assert english.startswith("# fmnist\n\n[中文](README.zh-CN.md) · [Tour](docs/tour.ipynb)")
    assert chinese.startswith("# fmnist\n\n[English](README.md) · [导览](docs/tour.zh-CN.ipynb)")


@pytest.mark.parametrize("name", [pair.split()[1] for pair in PAIRS])
def test_chinese_paragraphs_have_no_line_breaks_and_mark_english_pages(name):
    """A browser shows a line break between two Chinese characters as a blank."""
    prose = split(read(name))[1]
    assert not re.findall(r"[一-鿿\u3000-\u303f\uff00-\uffef]\n[一-鿿]", prose)
    for line in prose.splitlines():
        if re.search(r"\]\((?!#)[^)]*\.md|\]\(benchmarks", line.replace("(README.md)", "")):
            assert "英文" in line, line


def test_each_paragraph_is_translated(pages):
    english, chinese = (re.split(r"\n\s*\n", split(page)[1].strip()) for page in pages)
    words = [part for part in chinese if re.search(r"[a-z]{3}", re.sub(r"`[^`]*`|\([^)]*\)|</?\w+>", "", part))]
    assert len([part for part in words if not CHINESE.search(part)]) <= 2, "the name, and the way back"
    assert len(chinese) - len(english) in (0, 1)


def test_both_tours_show_the_same():
    english, chinese = (json.loads((ROOT / name).read_text(encoding="utf-8"))["cells"] for name in PAIRS[1].split())
    for ours, theirs in zip(english, chinese, strict=True):
        assert ours.get("outputs") == theirs.get("outputs")
