"""Broken links of built pages are found."""

import importlib.util

from .doc_pages import ROOT

spec = importlib.util.spec_from_file_location("check_links", ROOT / "docs" / "check_links.py")
check_links = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_links)


def faults_of(directory, **pages):
    for name, body in pages.items():
        (directory / f"{name}.html").write_text(f"<html><body>{body}</body></html>")
    return check_links.check(directory)


def test_links_to_pages_and_anchors_that_are_there_are_no_faults(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"")
    body = '<a href="other.html#place">x</a><img src="picture.png"><a href="#here" id="here">y</a>'
    assert faults_of(tmp_path, index=body, other='<p id="place">')[0] == []


def test_a_page_an_anchor_and_a_picture_that_are_missing_are_faults(tmp_path):
    body = '<a href="none.html">x</a><a href="other.html#none">y</a><img src="none.png">'
    faults, _ = faults_of(tmp_path, index=body, other="")
    assert len(faults) == 3
    assert "none.html leads to a file that is not there" in faults[0]
    assert "other.html#none leads to an anchor that is not there" in faults[1]


def test_other_sites_are_listed_and_must_not_be_loaded_from(tmp_path):
    body = '<a href="https://example.org/a">x</a><script src="https://example.org/b.js"></script>'
    faults, external = faults_of(tmp_path, index=body)
    assert external == {"https://example.org/a", "https://example.org/b.js"}
    assert len(faults) == 1
    assert "loads https://example.org/b.js" in faults[0]


def test_a_link_out_of_the_site_is_a_fault(tmp_path):
    assert len(faults_of(tmp_path, index='<a href="../secret.txt">x</a>')[0]) == 1
