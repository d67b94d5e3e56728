"""A page as a browser reads it, for tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Checks that tags are balanced, and collects tags, sources, handlers of events, text and cells of tables."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.handlers, self.text, self.cells = [], [], [], [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [(tag, value) for name, value in attributes if name in ("src", "href", "poster", "data")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.cells += [""] if tag == "td" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open:
            self.cells[-1] += data
