#!/usr/bin/env python3
"""HTML pages to JSON lines of prose, one document a page: paragraphs and list items; no code, no tables, no navigation.

usage: html_to_text.py PATH… > corpus.jsonl     (files and folders, in sorted order: the same output every time)

A manual is often packaged several times over (as pages, as one long page, as its source) and describes each of its options
in the same words. Only HTML is read, and a paragraph is taken once, near copies left out: what stands in two documents would be
trained on in one and predicted in the other.
"""
import gzip, html.parser, json, os, re, sys

BLOCKS = {"p", "li", "dd", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "div", "section", "title"}
SKIPPED = {"pre", "code", "table", "script", "style", "nav", "head", "tt", "kbd", "header", "footer", "form"}
VOID = {"br", "img", "hr", "input", "meta", "link", "col", "area", "base", "wbr"}


class Prose(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.depth, self.block, self.blocks = 0, [], []

    def end_block(self):
        text = re.sub(r"\s+", " ", "".join(self.block)).strip()
        if text:
            self.blocks.append(text)
        self.block = []

    def handle_starttag(self, tag, attributes):
        classes = dict(attributes).get("class") or ""
        if tag in VOID:
            return
        if self.depth or (tag in SKIPPED and tag not in ("code", "tt", "kbd")) or re.search(r"nav|toc|footer|index", classes, re.I):
            self.depth += 1
        elif tag in BLOCKS:
            self.end_block()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if self.depth:
            self.depth -= 1
        elif tag in BLOCKS:
            self.end_block()

    def handle_data(self, data):
        if not self.depth:
            self.block.append(data)


def is_prose(block):
    """Sentences: at least 8 words, mostly letters, ends like a sentence."""
    words = block.split()
    letters = sum(c.isalpha() or c.isspace() for c in block)
    return len(words) >= 8 and letters / len(block) > 0.85 and block[-1] in ".!?:;)\"”"


def from_html(text):
    parser = Prose()
    parser.feed(text)
    parser.end_block()
    return parser.blocks


def read(path):
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as file:
        return file.read().decode("utf-8", "replace")


def files(paths):
    """(file, id) of every page; the id holds the folder's name, since several have an index.html."""
    for path in paths:
        if not os.path.isdir(path):
            yield path, os.path.basename(path)
        parent = os.path.dirname(os.path.normpath(path))
        for folder, names, entries in os.walk(path):
            names.sort()
            pages = (os.path.join(folder, e) for e in sorted(entries) if re.search(r"\.html?(\.gz)?$", e))
            yield from ((page, os.path.relpath(page, parent)) for page in pages)


SHORTEST = 400  # characters of a document
RUN = 8  # words


def runs_of(block):
    """The hashes of a paragraph's runs of RUN words."""
    words = block.split()
    return {hash(tuple(words[i : i + RUN])) for i in range(max(1, len(words) - RUN + 1))}


def is_copy(runs, seen):
    """A fifth of its runs of words stood in a document before."""
    return 5 * len(runs & seen) >= len(runs)


def fresh(blocks, seen):
    """The prose of a page that no page before had; adds it to `seen` when the page is long enough to be a document."""
    kept, added = [], set()
    for block in dict.fromkeys(blocks):
        runs = runs_of(block)
        if is_prose(block) and not is_copy(runs, seen):
            kept.append(block)
            added |= runs
    text = "\n\n".join(kept)
    if len(text) < SHORTEST:
        return None
    seen |= added
    return text


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    seen, count, size, found = set(), 0, 0, 0
    for path, name in files(sys.argv[1:]):
        blocks = from_html(read(path))
        found += sum(len(b.encode()) for b in blocks)
        text = fresh(blocks, seen)
        if text is None:
            continue
        count, size = count + 1, size + len(text.encode())
        print(json.dumps({"text": text, "id": name}, ensure_ascii=False))
    share = 100 * size / found if found else 0
    print(f"{count} documents of prose, {size / 1e6:.2f} MB ({share:.0f} % of the pages' running text)", file=sys.stderr)


if __name__ == "__main__":
    main()
