#!/usr/bin/env python3
"""`nibble report` and `nibble compare` on real runs, and the page in a real browser: `test_report.py NIBBLE`."""
import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from cli_testing import SMALL, Case, main, make_tokens, write_config

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Runs before the page's own script and after it; what it finds ends up in the dumped document.
WATCH = "<script>window.problems=[];addEventListener('error',e=>problems.push(String(e.message)));" \
        "addEventListener('securitypolicyviolation',e=>problems.push('policy: '+e.blockedURI));</script>"
PROBE = """<script>
const seen = q => [...document.querySelectorAll(q)].filter(e => e.getBoundingClientRect().width > 0);
const found = {
  inner: innerWidth, scroll: document.documentElement.scrollWidth,
  charts: seen('.chart').map(e => e.getBoundingClientRect().height),
  series: seen('#loss .series').length, requests: performance.getEntriesByType('resource').length,
};
document.getElementById('axis-tokens').click();
found.tokens = seen('.by-tokens').length; found.steps = seen('.by-step').length;
const button = document.querySelector('.legend button');
button.click();
found.hidden = [...document.querySelectorAll('#loss .by-tokens .series')].filter(e => e.style.display === 'none').length;
const chart = seen('#loss .chart')[0], box = chart.getBoundingClientRect();
chart.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width / 2, clientY: box.top + 20}));
found.readouts = [...chart.querySelectorAll('.readout')].map(e => e.textContent);
found.problems = problems;
const out = document.createElement('pre'); out.id = 'probe'; out.textContent = JSON.stringify(found); document.body.append(out);
</script>"""


def browse(*arguments):
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                               "--proxy-server=127.0.0.1:9", f"--user-data-dir={profile}", *map(str, arguments)],
                              capture_output=True, timeout=120)


class Report(Case):
    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.place.name)
        tokens = make_tokens(cls.folder)
        cls.runs = cls.folder / "runs"
        for recipe in ("none", "int8"):
            for seed in (1, 2, 3):
                config = write_config(cls.folder / "c.jsonnet", SMALL | {
                    "data": {"path": str(tokens)}, "recipe": recipe,
                    "trainer": SMALL["trainer"] | {"seed": seed, "eval_every": 2, "telemetry_every": 3}})
                cls().ok("train", "--config", config, "--output", cls.runs / f"{recipe}-{seed}")

    @classmethod
    def tearDownClass(cls):
        cls.place.cleanup()

    def page(self, *options, name="report.html", runs=None):
        self.ok("report", runs or self.runs, "--output", self.folder / name, *options)
        return (self.folder / name).read_text()

    def test_the_page_holds_curves_verdicts_telemetry_and_configurations(self):
        html = self.page()
        for text in ("Training loss", "Validation loss", "Gradient norm", "Tokens a second", "Peak of tensors",
                     "Verdicts", "Quantization by layer", "Configurations", "signal to noise", "recipe=int8", "finished"):
            self.assertIn(text, html)
        self.assertEqual(html.count('<svg class="chart"'), 18)
        for outside in ("<link", "src=", "@import", "url(http"):
            self.assertNotIn(outside, html)

    def test_compare_pairs_runs_by_seed(self):
        table = json.loads(self.ok("compare", self.runs, "--json", "--margin", "0.5"))
        self.assertEqual([pair["seed"] for pair in table["groups"][0]["pairs"]], [1, 2, 3])
        text = self.ok("compare", self.runs / "none-1", self.runs / "int8-1")
        self.assertIn("too few pairs", text)

    def test_what_cannot_be_reported_is_one_line(self):
        self.fails("report: .*nothing: no such folder", "report", self.folder / "nothing", "--output", self.folder / "x")
        self.fails("report: .*tokens holds no run", "report", self.folder / "tokens", "--output", self.folder / "x")
        mine = self.folder / "mine.html"
        mine.write_text("my notes")
        self.fails("report: .*mine.html is there already and no report; hint", "report", self.runs, "--output", mine)
        self.assertEqual(mine.read_text(), "my notes")
        self.page(name="again.html")
        self.page(name="again.html")  # a report may be replaced
        self.fails("report: cannot create .*: no such file", "report", self.runs, "--output", self.folder / "no/where.html")
        self.fails("compare: got 1 run, expected at least two", "compare", self.runs / "none-1")
        self.fails("compare: the 2 runs differ in nothing but their seeds", "compare", self.runs / "none-1",
                   self.runs / "none-2")
        self.fails("compare: --margin: got -1, expected a positive number", "compare", self.runs, "--margin", "-1")
        self.fails("compare: --control: got 'x', expected the name", "compare", self.runs, "--control", "x")

    def test_a_run_that_is_still_being_written(self):
        copy = self.folder / "cut" / "none-1"
        shutil.copytree(self.runs / "none-1", copy)
        metrics = (copy / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        (copy / "metrics.jsonl").write_bytes(b"".join(metrics[:4]) + metrics[4][:-9])
        html = self.page(runs=self.folder / "cut", name="cut.html")
        self.assertIn("stopped at step", html)
        self.assertNotIn("damaged", html)

    @unittest.skipUnless(BROWSER, "no chromium here")
    def test_a_browser_shows_it_at_every_width(self):
        html = self.page()
        probed = self.folder / "probed.html"
        probed.write_text(html.replace("<body>", "<body>" + WATCH).replace("</body>", PROBE + "</body>"))
        for width in (1280, 500):  # the narrowest window that every version of the browser gives
            done = browse(f"--window-size={width},900", "--dump-dom", probed.as_uri())
            dom = done.stdout.decode()
            self.assertIn('<pre id="probe">', dom, done.stderr.decode()[-2000:])
            found = json.loads(dom.split('<pre id="probe">')[1].split("</pre>")[0].replace("&gt;", ">").replace("&amp;", "&"))
            self.assertEqual(found["problems"], [])
            self.assertEqual(found["requests"], 0)
            self.assertLessEqual(found["scroll"], found["inner"], width)
            self.assertEqual(len(found["charts"]), 6)
            self.assertGreater(min(found["charts"]), 100)
            self.assertEqual(found["series"], 6)
            self.assertEqual((found["tokens"], found["steps"], found["hidden"]), (6, 0, 1))
            self.assertEqual(len(found["readouts"]), 5)

    @unittest.skipUnless(BROWSER, "no chromium here")
    def test_a_browser_prints_it(self):
        self.page(name="printed.html")
        pdf = self.folder / "printed.pdf"
        browse(f"--print-to-pdf={pdf}", (self.folder / "printed.html").as_uri())
        self.assertTrue(pdf.read_bytes().startswith(b"%PDF"))
        self.assertGreater(pdf.stat().st_size, 20000)


if __name__ == "__main__":
    main()
