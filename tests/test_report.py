"""report.html: well-formed, and its figures and curves are those of log.jsonl, computed here; of runs that are whole, stopped, killed
and resumed, that end in NaN, under way; of logs that are long, damaged or of another version."""
import json, math, os, re, resource, shutil, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from run_fixture import BINARY, CONFIG, ENVIRONMENT, STAGES, log, make, run, write_diverging

STOPPED, USAGE, IO, NUMERIC = 75, 2, 6, 17
XHTML, SVG = "{http://www.w3.org/1999/xhtml}", "{http://www.w3.org/2000/svg}"
LEFT, RIGHT, TOP, BOTTOM = 70, 885, 28, 225  # of the plot, as in coordinator/chart.h
POINTS, END = 1000, 20
UNKNOWN = "–"
DESCRIPTION = """a <b>bold</b> & "quoted" 'stage' ü"""


class Page:
    def __init__(self, path):
        self.text = open(path, encoding="utf-8").read()
        self.root = ElementTree.fromstring(self.text)
        assert self.root.tag == XHTML + "html"
        check_html(self.text)
        self.state = "".join(self.find("p", "state").itertext())
        self.head = {row[0].text: "".join(row[1].itertext()) for row in self.rows("head")}
        self.stages = [[cell.text or "" for cell in row] for row in self.rows("stages")[1:]]
        self.events = [[cell.text or "" for cell in row] for row in self.rows("events")[1:]]
        self.charts = {f.get("id"): Chart(f) for f in self.root.iter(XHTML + "figure")}

    def find(self, tag, name):
        return next(e for e in self.root.iter(XHTML + tag) if e.get("id") == name)

    def rows(self, name):
        return list(self.find("table", name).iter(XHTML + "tr"))


class Chart:
    """Curves in the values' coordinates."""

    def __init__(self, figure):
        svg = next(figure.iter(SVG + "svg"))
        self.x0, self.x1, self.y0, self.y1 = (float(svg.get(f"data-{e}")) for e in ("x0", "x1", "y0", "y1"))
        self.log = svg.get("data-scale") == "log"
        self.caption = "".join(next(figure.iter(XHTML + "figcaption")).itertext())
        of = lambda tag, kind: [e for e in svg.iter(SVG + tag) if e.get("class") == kind]
        points = lambda elements: [[tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in elements]
        self.lines, self.bands, self.levels = points(of("polyline", "line")), points(of("polygon", "band")), points(of("polyline", "level"))
        self.dots = [(float(e.get("cx")), float(e.get("cy"))) for e in of("circle", "dot")]
        self.boundaries = [float(e.get("x1")) for e in of("line", "stage")]
        self.marks = [float(e.get("x1")) for e in of("line", "mark")]
        self.labels = [e.text for e in of("text", "label")]

    def px(self, x):
        return LEFT + (RIGHT - LEFT) * (x - self.x0) / (self.x1 - self.x0)

    def py(self, y):
        f = math.log10 if self.log else float
        return BOTTOM - (BOTTOM - TOP) * (f(y) - f(self.y0)) / (f(self.y1) - f(self.y0))

    def shows(self, points):
        """The lines and lone dots are these points; None in y: a gap. All lie in the plot."""
        parts, part = [], []
        for x, y in [*points, (0, None)]:
            if y is None or (self.log and y <= 0):
                parts, part = parts + [part] * bool(part), []
            else:
                part.append((self.px(x), self.py(y)))
        assert [len(p) for p in parts] == [len(p) for p in self.lines], ([len(p) for p in parts], [len(p) for p in self.lines])
        for expected, seen in zip(sum(parts, []), sum(self.lines, [])):
            assert near(expected, seen), (expected, seen)
        flat = sum(self.lines, [])
        assert all(LEFT - 0.1 <= x <= RIGHT + 0.1 and TOP - 0.1 <= y <= BOTTOM + 0.1 for x, y in flat)
        assert all(any(near(d, p) for p in flat) for d in self.dots)
        assert all(any(near(p[0], d) for d in self.dots) for p in parts if len(p) == 1), "a lone point is not seen"


def near(a, b, tolerance=0.011):
    return abs(a[0] - b[0]) <= tolerance and abs(a[1] - b[1]) <= tolerance


def check_html(text):
    """Every tag is closed for an HTML parser, too; nothing is fetched, nothing runs."""
    class Parser(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.seen = [], set()

        def handle_starttag(self, tag, attributes):
            self.open.append(tag)
            self.handle_startendtag(tag, attributes)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag, tag

        def handle_startendtag(self, tag, attributes):
            self.seen.add(tag)
            for name, value in attributes:
                assert name not in ("src", "href", "style") and not name.startswith("on"), (tag, name, value)

    parser = Parser()
    parser.feed(text)
    parser.close()
    assert not parser.open and parser.seen >= {"html", "head", "title", "style", "body", "table"}, parser.open
    assert not parser.seen & {"script", "link", "img", "iframe", "object", "b-old"}, parser.seen
    for word in ("http://", "https://", "url(", "@import"):
        found = [m for m in re.findall(re.escape(word) + r"[^\"')\s]*", text) if "www.w3.org" not in m]
        assert not found, found
    assert "prefers-color-scheme:dark" in text


# --- The figures, from the log
def count(x):
    return UNKNOWN if x is None else f"{x:,}"


def duration(s):
    if s < 59.95:
        return f"{s:.1f} s"
    s = int(s)
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s // 60 % 60:02d}m"


def short(x):
    for unit in ("", "k", "M", "G"):
        if abs(x) < 999.5:
            return f"{x:.3g}{unit}"
        x /= 1000


def mean(values):
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


def stage_rows(steps, evaluations, stages):
    rows = []
    for number in sorted({s["stage"] for s in stages}):
        own = [s for s in steps if s["stage"] == number]
        stage = [s for s in stages if s["stage"] == number][-1]
        tokens, seconds = sum(s["seq_len"] * s["sequences"] for s in own), sum(s["seconds"] for s in own)
        losses = [s["loss"] for s in own if s["loss"] is not None][-END:]
        validations = [e["bits_per_byte"] for e in evaluations if e["stage"] == number]
        rows.append([str(number), count(stage["seq_len"]), count(stage["batch_size"]), count(tokens), count(len(own)), duration(seconds),
                     short(tokens / seconds) if seconds > 0 else UNKNOWN, f"{mean(losses):.4f}" if losses else UNKNOWN,
                     f"{validations[-1]:.4f}" if validations else UNKNOWN, count(sum(s["skipped"] for s in own)), stage["description"]])
    return rows


def buckets(lines, key):
    """Points of a curve: means of as many consecutive lines as make at most 1000 points, a power of two."""
    width = 1
    while -(-len(lines) // width) > POINTS:
        width *= 2
    groups = [lines[i:i + width] for i in range(0, len(lines), width)]
    return width, [(mean([l["tokens"] for l in g]), mean([l[key] for l in g])) for g in groups]


def check_page(path, page):
    """All of it against the log, which has no damage."""
    steps, evaluations, stages = log(path), log(path, "evaluation"), log(path, "stage")
    assert page.stages == stage_rows(steps, evaluations, stages), (page.stages, stage_rows(steps, evaluations, stages))
    for name, key in (("loss", "loss"), ("lr", "lr"), ("grad_norm", "grad_norm"), ("speed", "tokens_per_second")):
        width, points = buckets(steps, key)
        page.charts[name].shows(points)
        assert len(points) <= POINTS and (f"mean of {width:,}" in page.charts[name].caption) == (width > 1)
        assert page.charts[name].x1 == steps[-1]["tokens"]
    if evaluations:
        page.charts["validation"].shows(buckets(evaluations, "bits_per_byte")[1])
        last = evaluations[-1]
        for part in (f"{last['bits_per_byte']:.4f} bits per byte", f"{last['loss']:.4f} nats", f"step {last['step']:,}"):
            assert part in page.head["validation"], (part, page.head)
    chart = page.charts["loss"]
    begins = [next(s for s in steps if s["stage"] == st["stage"]) for st in stages if any(s["stage"] == st["stage"] for s in steps)]
    expected = [chart.px(s["tokens"] - s["seq_len"] * s["sequences"]) for s in begins[1:]]
    assert len(expected) == len(chart.boundaries) and all(abs(a - b) < 0.06 for a, b in zip(expected, chart.boundaries)), chart.boundaries
    first = log(path, "start")[0]
    assert page.head["device"] == first["device"] and page.head["ranks"] == str(first["ranks"])
    assert page.head["step"].startswith(f"{steps[-1]['step']:,} of {first['total_steps']:,}")
    assert page.head["tokens"].startswith(f"{steps[-1]['tokens']:,} of {first['total_tokens']:,}")
    made = len(log(path, "checkpoint"))
    assert page.head["checkpoints"].startswith(f"{made:,}"), page.head
    assert time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(first["time"])) == page.head["started"]


def again(path):
    """The same page but for when it was written, from the command."""
    other = f"{path}/other.html"
    run("report", path, "--output", other)
    strip = lambda text: re.sub(r"<footer>.*</footer>", "", text)
    assert strip(open(other).read()) == strip(open(f"{path}/report.html").read())
    os.remove(other)


# --- Runs
def test_whole(folder, config):
    path = f"{folder}/whole"
    train = ("train", "--config", config, "--set", f"run_dir={path}", "evaluation.interval_steps=10")
    run(*train, "--max-steps", 45, check=STOPPED)
    page = Page(f"{path}/report.html")
    assert page.state.startswith("stopped"), page.state
    check_page(path, page)
    again(path)
    run(*train)
    page = Page(f"{path}/report.html")
    assert page.state == "complete", page.state
    check_page(path, page)
    again(path)
    assert len(page.stages) == 10 and page.stages[2][-1] == DESCRIPTION
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; &quot;quoted&quot;" in page.text and "<b>bold" not in page.text
    assert [e[2].split(" on ")[0] for e in page.events] == ["started", "stopped", "resumed", "complete"], page.events
    assert page.charts["loss"].labels[0] == "T=8" and len(page.charts["loss"].labels) > 5
    assert len(page.charts["grad_norm"].levels) == 10
    assert all(near(level[0], (level[0][0], page.charts["grad_norm"].py(1))) for level in page.charts["grad_norm"].levels)
    parameters = int(re.match(r"([\d,]+) parameters", page.head["model"])[1].replace(",", ""))
    assert f"{parameters} parameters" in run("plan", "--config", config).stdout
    assert page.head["precision"] == "fp32" and page.head["data"] == f"{folder}/data"
    done = run("report", path)
    steps = log(path)[-1]
    assert done.stdout == f"{path}/report.html: step {steps['step']}, {steps['tokens']} tokens\n", done.stdout
    run(*train)
    assert Page(f"{path}/report.html").events[-1][2] == "complete"
    print(f"a run of {steps['step']} steps, stopped once: {len(page.stages)} stages and {len(page.charts)} curves are the log's")


def test_under_way(folder, config):
    path = f"{folder}/under-way"
    train = [BINARY, "train", "--config", config, "--set", f"run_dir={path}", "checkpoint.interval_steps=10"]
    process = subprocess.Popen(train, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while not os.path.exists(f"{path}/report.html"):
        time.sleep(0.01)
    first = Page(f"{path}/report.html")
    assert first.state == "running" and "no step yet" in first.text, first.state
    while not os.path.exists(f"{path}/log.jsonl") or not log(path, "checkpoint"):
        time.sleep(0.01)
    while "Training loss" not in open(f"{path}/report.html").read():
        time.sleep(0.01)
    assert Page(f"{path}/report.html").state == "running"
    run("report", path, "--output", f"{folder}/of-running.html")
    page = Page(f"{folder}/of-running.html")
    assert page.state == "running" and "last line" in page.head, page.head
    process.kill()
    process.wait()
    run("report", path)
    page = Page(f"{path}/report.html")
    assert page.state.startswith("not running") and "ended" in page.head, page.state
    check_page(path, page)
    reached = log(path)[-1]["step"]
    run(*train[1:], "--max-steps", 3, check=STOPPED)
    page = Page(f"{path}/report.html")
    check_page(path, page)
    assert page.state.startswith("stopped") and page.events[-2][2].startswith("resumed")
    run(*train[1:], "--resume", "never", "--max-steps", 2, check=STOPPED)
    assert Page(f"{path}/report-before-1.html").stages == page.stages
    check_page(path, Page(f"{path}/report.html"))
    print(f"under way, killed after step {reached}, resumed, started over: said as it is")


def test_not_finite(folder):
    write_diverging(f"{folder}/nan.yaml", folder)
    path = f"{folder}/nan"
    failed = run("train", "--config", f"{folder}/nan.yaml", "--set", f"run_dir={path}", check=NUMERIC).stderr
    page = Page(f"{path}/report.html")
    message = [l for l in failed.splitlines() if l.startswith("error: ")][-1][len("error: "):]
    assert page.state == f"failed: {message}" and page.events[-1][2] == f"failed: {message}", page.state
    check_page(path, page)
    again(path)
    skipped = [s for s in log(path) if s["skipped"]]
    assert page.stages[1][9] == str(len(skipped)) == "8"
    assert len(page.charts["loss"].marks) == 8
    assert page.events[-2][2].startswith(f"steps {skipped[0]['step']} to {skipped[-1]['step']}: the gradient was not finite"), page.events
    norms = [s["grad_norm"] for s in log(path)]
    assert sum(map(len, page.charts["grad_norm"].lines)) == sum(bool(x) for x in norms) < len(norms) - 7 and page.charts["loss"].log, norms
    print("a run that ends in NaN: its message, its skipped steps, a gap in the curve")


def test_off(folder, config):
    path = f"{folder}/off"
    train = ("train", "--config", config, "--set", f"run_dir={path}", "logging.report=false", "checkpoint.interval_steps=0")
    run(*train, "--max-steps", 2, check=STOPPED)
    assert not os.path.exists(f"{path}/report.html")
    run("report", path)
    check_page(path, Page(f"{path}/report.html"))
    run(*train, "--max-steps", 1, check=STOPPED)
    assert os.path.exists(f"{path}/report.html")  # of this run
    shutil.rmtree(f"{path}/checkpoints")
    run(*train, "--max-steps", 1, check=STOPPED)
    assert not os.path.exists(f"{path}/report.html"), "of a run that is no more"


def test_ranks(folder, config):
    if not shutil.which("mpirun"):
        return print("no mpirun: several ranks are not tested")
    path = f"{folder}/ranks"
    run("train", "--config", config, "--set", f"run_dir={path}", "--max-steps", 5, ranks=2, check=STOPPED)
    page = Page(f"{path}/report.html")
    check_page(path, page)
    assert page.head["ranks"] == "2" and any("2 ranks on 1 host exchange by" in e[2] for e in page.events), page.events


# --- Logs
def write_log(path, lines):
    os.makedirs(path, exist_ok=True)
    with open(f"{path}/log.jsonl", "w") as file:
        for line in lines:
            file.write(line if isinstance(line, str) else json.dumps(line, separators=(",", ":")) + "\n")  # as runs write it


def step_line(i, stage=1, **more):
    return {"type": "step", "step": i, "stage": stage, "seq_len": 8, "sequences": 4, "tokens": 32 * i, "loss": 5 + math.sin(i), "lr": 1e-3 / i,
            "grad_clip": 1.0, "grad_norm": 0.5 + (i % 97 == 0) * 7, "seconds": 0.25, "tokens_per_second": 100.0 + i % 5, "skipped": False,
            "time": 1.7e9 + i, **more}


def start_line(steps):
    return {"type": "start", "step": 0, "tokens": 0, "ranks": 1, "device": "<device> & co", "total_steps": steps, "total_tokens": 32 * steps,
            "time": 1.7e9}


def stage_line(number, first, description=""):
    return {"type": "stage", "step": first, "stage": number, "tokens": 32 * (first - 1), "seq_len": 8, "batch_size": 4, "lr_scale": 1.0,
            "grad_clip": 1.0, "description": description, "time": 1.7e9}


def test_long(folder):
    """200,000 steps: at most 1000 points a curve, and read within seconds."""
    path, n = f"{folder}/long", 200000
    half = n // 2
    lines = [start_line(n), stage_line(1, 1), *(step_line(i) for i in range(1, half + 1)), stage_line(2, half + 1),
             *(step_line(i, 2, skipped=i % 400 == 0, grad_norm=None if i % 400 == 0 else 0.5) for i in range(half + 1, n + 1))]
    for i in range(100, n, 100):
        lines.append({"type": "evaluation", "step": i, "tokens": 32 * i, "stage": 1, "seq_len": 8, "bits_per_byte": 1 + 1 / i, "loss": 3.0,
                      "time": 1.7e9})
    write_log(path, lines)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run("report", path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    page = Page(f"{path}/report.html")
    check_page(path, page)
    assert page.state == "complete"
    size = os.path.getsize(f"{path}/report.html")
    points = {name: sum(map(len, chart.lines)) for name, chart in page.charts.items()}
    assert max(points.values()) <= POINTS < 2 * min(points.values()) and size < 1e6, (points, size)
    band = page.charts["grad_norm"].bands[0]  # one in 97 steps is a spike: the means hide it, the band does not
    top = min(y for _, y in band)
    assert abs(top - page.charts["grad_norm"].py(7.5)) < 0.06, (top, page.charts["grad_norm"].py(7.5))
    assert len(page.events) == 201 and page.events[50][2] == "… 51 more …" and page.events[200][1] == "200,000", page.events[48:52]
    assert took < 3, took
    print(f"a log of {n:,} steps, {os.path.getsize(path + '/log.jsonl') / 1e6:.0f} MB: {took:.1f} s of a processor, a page of {size / 1e3:.0f} kB")


def test_damaged(folder):
    path = f"{folder}/damaged"
    good = [step_line(i) for i in range(1, 11)]
    write_log(path, [start_line(20), stage_line(1, 1), *good[:4], '{"type":"step","st\n', "\0\0\0\n", *good[4:], "nonsense\n", '{"type":"step","step":11'])
    done = run("report", path)
    assert "3 damaged lines" in done.stdout and "step 10" in done.stdout, done.stdout
    page = Page(f"{path}/report.html")
    assert page.head["log"] == "3 of 15 lines are damaged and were left out", page.head
    assert page.stages == stage_rows(good, [], [stage_line(1, 1)])
    assert page.head["model"].startswith(UNKNOWN) and "config.yaml" in page.head["model"] and page.head["device"] == "<device> & co"
    open(f"{path}/log.jsonl", "a").write('}\n')  # cut where it could be whole: no figures, yet a step
    run("report", path)
    assert Page(f"{path}/report.html").stages[0][4] == "10"
    print("damaged lines and a cut last one: left out, and said")


def test_missing_fields(folder):
    """Lines of a version that wrote less."""
    path = f"{folder}/missing"
    write_log(path, [{"type": "start"}, {"type": "stage", "stage": 1}, {"type": "evaluation", "step": 1}, {"type": "later"}, {"type": "end"},
                     *({"type": "step", "step": i, "stage": 1, "tokens": 32 * i, "loss": 2.0} for i in range(1, 5)), {"type": "ranks"},
                     {"type": "link"}, {"type": "checkpoint"}])
    run("report", path)
    page = Page(f"{path}/report.html")
    assert page.stages == [["1", UNKNOWN, UNKNOWN, UNKNOWN, "4", UNKNOWN, UNKNOWN, "2.0000", UNKNOWN, "0", ""]], page.stages
    assert page.head["ranks"] == UNKNOWN and page.head["started"] == UNKNOWN and page.head["step"] == f"4 of {UNKNOWN}", page.head
    for alone in ({"type": "step"}, {"type": "step", "step": 1}, {"type": "evaluation"}, {"type": "stage"}, {"type": "end", "state": "complete"}):
        write_log(path, [alone])
        run("report", path)
        Page(f"{path}/report.html")
    for key in step_line(1):
        write_log(path, [start_line(9), stage_line(1, 1), *({k: v for k, v in step_line(i).items() if k != key} for i in range(1, 9))])
        run("report", path)
        Page(f"{path}/report.html")
    write_log(path, [])
    run("report", path)
    assert Page(f"{path}/report.html").stages == []
    print("missing fields: a dash")


def test_spikes(folder):
    """Skipped for a gradient that is finite: another reason."""
    path = f"{folder}/spikes"
    write_log(path, [start_line(9), stage_line(1, 1), *(step_line(i, skipped=i in (3, 4, 7), grad_norm=90.0) for i in range(1, 10))])
    run("report", path)
    page = Page(f"{path}/report.html")
    assert page.stages[0][9] == "3" and len(page.charts["loss"].marks) == 3
    assert [e[1:] for e in page.events[1:]] == [["3", "steps 3 to 4: loss or gradient far above the usual, nothing was updated"],
                                                ["7", "loss or gradient far above the usual, nothing was updated"]], page.events


def test_no_place(folder, config):
    """Where the page cannot be written, the run says so at once."""
    path = f"{folder}/place"
    os.makedirs(f"{path}/report.html")
    done = run("train", "--config", config, "--set", f"run_dir={path}", check=IO)
    errors = [l for l in done.stderr.splitlines() if l.startswith("error:")]
    assert len(errors) == 1 and f"{path}/report.html" in errors[0] and not log(path), done.stderr


def test_usage(folder):
    for arguments, code, message in (([], USAGE, "takes one RUN"), (["a", "b"], USAGE, "takes one RUN"), (["--nonsense"], USAGE, "nonsense"),
                                     ([f"{folder}/none"], IO, f"cannot open {folder}/none/log.jsonl"),
                                     ([f"{folder}/missing", "--output", f"{folder}/none/x.html"], IO, f"{folder}/none/x.html")):
        done = run("report", *arguments, check=code)
        assert message in done.stderr, (arguments, done.stderr)
    assert "usage: yxanul report RUN" in run("report", "--help").stdout


def main():
    folder = tempfile.mkdtemp(prefix="yxanul-report-")
    try:
        config = make(folder)
        text = open(config).read()
        third = f"seq_len: {STAGES[2][0]}, batch_size: {STAGES[2][1]}, fraction: 0.1, grad_clip: 1"
        assert third in text
        open(config, "w").write(text.replace(third, f"{third}, description: {json.dumps(DESCRIPTION, ensure_ascii=False)}"))
        test_whole(folder, config)
        test_under_way(folder, config)
        test_not_finite(folder)
        test_off(folder, config)
        test_ranks(folder, config)
        test_long(folder)
        test_damaged(folder)
        test_missing_fields(folder)
        test_spikes(folder)
        test_no_place(folder, config)
        test_usage(folder)
    finally:
        shutil.rmtree(folder)


main()
