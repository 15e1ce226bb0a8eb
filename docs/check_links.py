"""Check the links of built pages: ``python docs/check_links.py docs/_build/html``.

Each link within the site must lead to a file that is there, and to an anchor that is in it. What a
page loads (pictures, scripts, styles) must lie within the site. Links to other sites are listed.
"""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Link(NamedTuple):
    """Where a page leads to; ``is_loaded`` where the browser fetches it by itself."""

    target: str
    is_loaded: bool


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[Link] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what the element leads to, and its name."""
        for name, value in attrs:
            if value is None:
                continue
            if name in ("id", "name"):
                self.anchors.add(value)
            elif name in ("href", "src", "data", "poster"):
                self.links.append(Link(value, name != "href" or tag == "link"))


def check(root: Path) -> tuple[list[str], set[str]]:
    """Return what is wrong with the pages below a directory, and the other sites they lead to."""
    # The theme leaves a template among its files.
    paths = [path for path in sorted(root.rglob("*.html")) if "_static" not in path.parts]
    pages = {path.resolve(): Page(path.read_text()) for path in paths}
    if not pages:
        raise SystemExit(f"There are no pages in {root}. Build them first.")
    faults, external = [], set()
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link.target)
            if parts.scheme in ("http", "https") or parts.netloc:
                external.add(link.target)
                if link.is_loaded:
                    faults.append(f"{path}: loads {link.target} from another site")
            elif parts.scheme not in ("data", "mailto", "javascript"):
                fault = _fault_of(link.target, path, pages, root.resolve())
                if fault:
                    faults.append(f"{path}: {link.target} {fault}")
    return faults, external


def _fault_of(target: str, path: Path, pages: dict[Path, Page], root: Path) -> str | None:
    """Return what is wrong with a link within the site, None if nothing is."""
    parts = urlsplit(target)
    found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if found.is_dir():
        found = found / "index.html"
    if not found.is_relative_to(root):
        return "leads out of the site"
    if not found.exists():
        return "leads to a file that is not there"
    anchor = unquote(parts.fragment)
    if anchor and found in pages and anchor not in pages[found].anchors:
        return "leads to an anchor that is not there"
    return None


def main() -> None:
    """Check the pages of the command line's directory; exit with 1 if a link is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    faults, external = check(parser.parse_args().directory)
    for target in sorted(external):
        print(f"another site, not followed: {target}")
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
