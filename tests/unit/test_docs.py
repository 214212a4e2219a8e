import re

import pytest
from conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data-bin" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_have_no_dead_link_and_nothing_left_to_fill_in(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    prose = re.sub(r"`[^`]*`", "", re.sub(r"```.*?```", "", text, flags=re.S))
    assert not re.findall(r"\b[A-Z]{4,}_[A-Z]{4,}\b|TODO|FIXME", prose)
    assert not re.findall(r"^[A-Z]{4,}_[A-Z]{4,}$", text, flags=re.M)
