#!/usr/bin/env python3
"""CUDA C++ of this project to C++ for tests/emulate/emulator.h: kernel launches, dynamic shared memory and PTX become calls.

usage: translate.py INPUT OUTPUT
"""
import re, sys

PAIRS = {"(": ")", "[": "]", "{": "}"}


def balanced(text, start):
    """The end of the bracketed piece that opens at `start` (the index behind the closing bracket)."""
    closing, depth, i = PAIRS[text[start]], 0, start
    while i < len(text):
        if text[i] == '"':
            i = re.compile(r'"(?:[^"\\]|\\.)*"').match(text, i).end()
            continue
        depth += (text[i] == text[start]) - (text[i] == closing)
        i += 1
        if depth == 0:
            return i
    sys.exit("unbalanced brackets")


def split_top(text, separator):
    parts, depth, at, i = [], 0, 0, 0
    while i < len(text):
        if text[i] == '"':
            i = re.compile(r'"(?:[^"\\]|\\.)*"').match(text, i).end()
            continue
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0 and text.startswith(separator, i):
            parts.append(text[at:i])
            at = i + len(separator)
        i += 1
    return [*parts, text[at:]]


def kernel_start(text, end):
    """Where the kernel's name, with its template arguments, begins; `end`: the index of <<<."""
    i = len(text[:end].rstrip())
    if text[i - 1] == ">":
        depth = 0
        while True:
            i -= 1
            depth += (text[i] == ">") - (text[i] == "<")
            if depth == 0:
                break
    while re.match(r"[\w:]", text[i - 1]):
        i -= 1
    return i


def launches(text):
    while "<<<" in text:
        at = text.index("<<<")
        begin, close = kernel_start(text, at), text.index(">>>", at)
        end = balanced(text, close + 3)
        grid, block, shared, _ = [*split_top(text[at + 3:close], ","), "0", "0"][:4]
        kernel = text[begin:at]
        arguments = text[close + 3:end]
        # The arguments' values are taken now: a recorded launch outlives what they point at on the stack.
        body = f"[=, arguments = std::make_tuple{arguments}]() {{ std::apply({kernel}, arguments); }}"
        text = f"{text[:begin]}emulate_launch((const void *)({kernel}), {grid}, {block}, {shared}, {body}){text[end:]}"
    return text


def assembly(text):
    for found in iter(lambda: re.search(r"\basm(?: volatile)?\s*\(", text), None):
        end = balanced(text, found.end() - 1)
        parts = [p.strip() for p in split_top(text[found.end():end - 1].replace("::", ": :"), ":")]
        code = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', parts[0]))
        name = re.sub(r"\W", "_", re.match(r"[\w.]+", code.strip()).group(0))
        special = re.search(r"%%(\w+)\.(\w)", code)
        if special:
            name = f"{special.group(1)}_{special.group(2)}"
        operands = []
        for part in parts[1:3]:
            for operand in split_top(part, ","):
                value = re.match(r'\s*"[^"]*"\s*\((.*)\)\s*$', operand, re.S)
                if value:
                    operands.append(value.group(1))
        text = f"{text[:found.start()]}emulate_{name}({', '.join(operands)}){text[end:]}"
    return text


def main():
    text = re.sub(r'("(?:[^"\\\n]|\\.)*")|//[^\n]*', lambda m: m.group(1) or "", open(sys.argv[1]).read())
    text = re.sub(r"extern __shared__ (?:__align__\(\d+\) )?([\w ]+?) (\w+)\[\];", r"\1 *\2 = (\1 *)emulate_dynamic_shared();", text)
    text = launches(assembly(text))
    with open(sys.argv[2], "w") as out:
        out.write(f'#line 1 "{sys.argv[1]}"\n{text}')


main()
