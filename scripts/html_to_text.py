#!/usr/bin/env python3
"""HTML pages and plain text to JSON lines of prose, one document a page: headings, paragraphs and list items; no code, no
tables, no navigation.

usage: html_to_text.py PATH… > corpus.jsonl     (files and folders, in sorted order: the same output every time)
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
    return "\n\n".join(b for b in parser.blocks if is_prose(b))


def read(path):
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as file:
        return file.read().decode("utf-8", "replace")


def files(paths):
    for path in paths:
        if not os.path.isdir(path):
            yield path
        for folder, names, entries in os.walk(path):
            names.sort()
            yield from (os.path.join(folder, e) for e in sorted(entries) if re.search(r"\.(html?|txt)(\.gz)?$", e))


def document(path):
    text = read(path)
    if re.search(r"\.html?(\.gz)?$", path):
        return from_html(text)
    return text


def main():
    seen, count, size = set(), 0, 0
    for path in files(sys.argv[1:]):
        text = document(path)
        if len(text) < 400 or text in seen:
            continue
        seen.add(text)
        count, size = count + 1, size + len(text.encode())
        print(json.dumps({"text": text, "id": os.path.basename(path)}, ensure_ascii=False))
    print(f"{count} documents of prose, {size / 1e6:.2f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
