"""Pages of a report as a browser would find them, and the bytes of a folder."""

import json
import shutil
from html.parser import HTMLParser

CHROMIUM = shutil.which("chromium")


class Page(HTMLParser):
    """What a browser would find: elements, ids, links, scripts, text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.ids, self.links, self.json, self.text = [], set(), [], [], []
        self.inside = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids |= {found["id"]} if "id" in found else set()
        self.links += [found[name] for name in ("href", "src") if name in found]
        self.inside = found.get("type", "") if tag == "script" else ""

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "application/json":
            self.json.append(json.loads(data))
        else:
            self.text.append(data)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
