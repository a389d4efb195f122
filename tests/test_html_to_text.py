#!/usr/bin/env python3
"""scripts/html_to_text.py: prose out of HTML, and nothing twice: a paragraph in both splits of the data would be trained on and
then predicted."""
import json, os, subprocess, sys, tempfile

SCRIPT = os.path.join(os.path.dirname(__file__), "..", "scripts", "html_to_text.py")


def sentence(seed, words=40):
    return " ".join(f"word{chr(97 + (seed * 7 + i * i * (seed + 3)) % 26)}{chr(97 + (seed + i) % 26)}" for i in range(words)) + "."


def page(*blocks):
    return "<html><head><title>no prose</title></head><body>" + "".join(blocks) + "</body></html>"


def paragraphs(first, n):
    return [f"<p>{sentence(first + k)}</p>" for k in range(n)]


def convert(folder):
    run = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def main():
    shared = sentence(500, 60)
    near = shared.replace("worda", "wordq", 1)
    pages = {
        "a.html": page("<nav><p>" + sentence(90) + "</p></nav>", *paragraphs(1, 6), f"<p>{shared}</p>", "<pre>int x;</pre>"),
        "b.html": page(*paragraphs(20, 6), f"<p>{shared}</p>", f"<p>{sentence(40)}</p>"),
        "c.html": page(*paragraphs(60, 6), f"<p>{near}</p>"),
        "d.html": page(*paragraphs(1, 6), f"<p>{shared}</p>"),  # a copy of a.html
        "e.txt": sentence(700, 400),  # not HTML
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, text in pages.items():
            with open(os.path.join(folder, name), "w") as f:
                f.write(text)
        documents = convert(folder)
        assert documents == convert(folder), "the output depends on something else than the pages"
    by_name = {os.path.basename(d["id"]): d["text"] for d in documents}
    assert sorted(by_name) == ["a.html", "b.html", "c.html"], sorted(by_name)
    assert shared in by_name["a.html"] and sentence(90) not in by_name["a.html"] and "int x" not in by_name["a.html"]
    assert shared not in by_name["b.html"] and sentence(40) in by_name["b.html"]
    assert near not in by_name["c.html"] and sentence(60) in by_name["c.html"]
    print("ok: 5 pages, 3 documents; a copied page, a repeated paragraph and a near copy are left out")


main()
