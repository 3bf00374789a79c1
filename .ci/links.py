"""Check that the links between built pages lead somewhere: ``python links.py FOLDER``."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and where its links lead."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links = {""}, []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        """Note an anchor or a link."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(urlsplit(value))


def main(folder):
    """Print how many links there are, and which are broken."""
    pages = {
        path: Page(path)
        for path in sorted(folder.rglob("*.html"))
        if "_static" not in path.parts
    }
    inside, outside, broken = 0, set(), []
    for path, page in pages.items():
        for link in page.links:
            if link.scheme or link.netloc:
                outside.add(link.geturl())
                continue
            inside += 1
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            known = pages.get(target)
            if not target.exists() or (
                known and unquote(link.fragment) not in known.anchors
            ):
                broken.append(f"{path.relative_to(folder)}: {link.geturl()}")
    print(f"{len(pages)} pages, {inside} links between them, {len(broken)} broken")
    print(f"{len(outside)} addresses outside, not asked for (sphinx -b linkcheck does)")
    print(*broken, sep="\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
