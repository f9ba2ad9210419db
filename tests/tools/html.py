"""What a parser finds in an HTML page."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The text, tags and tables of a page.

    Attributes:
        text: what is between the tags, without scripts and styles.
        tags: the names of all tags that are opened.
        attributes: of all tags together.
        rows: the cells of all tables.
        scripts: the texts of the scripts.
    """

    def __init__(self, source: str) -> None:
        """Parse a page."""
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "script":
            self.scripts.append("")
        elif tag == "br":
            self.handle_data(" ")
        if tag in ("td", "th", "script", "style"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Note that a tag ends."""
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        """Note text."""
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts[-1] += data
        elif inside != "style":
            self.text += data
        if inside in ("td", "th"):
            self.rows[-1][-1] += data
