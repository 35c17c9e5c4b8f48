"""report.html in a browser."""

import dataclasses
import json
import re
import shutil
import subprocess
from html import unescape

import pandas as pd
import pytest

from byzgym.experiments import report
from byzgym.experiments.report.page import sweep_html
from byzgym.experiments.report.plots import credits

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=60000",
)

# Counts what goes wrong, from before the page's own scripts run.
WATCH = """<script>
const wrong = [];
addEventListener("error", event => wrong.push("error: " + event.message));
addEventListener("unhandledrejection", event => wrong.push("rejected: " + event.reason));
addEventListener("securitypolicyviolation", event => wrong.push("refused: " + event.blockedURI));
for (const kind of ["error", "warn"]) console[kind] = (...words) => wrong.push(kind + ": " + words.join(" "));
</script>"""
# Uses the page as a reader does, and leaves what came of it in the document.
PROBE = """<script>
const shown = () => [...document.querySelectorAll(".plot")].filter(plot => plot.offsetParent);
const drawn = () => shown().filter(plot => plot.querySelector("svg.main-svg .cartesianlayer path"));
// The page draws its figures one after the other.
async function settled() {
  for (let step = 0; step < 1000 && drawn().length < shown().length; step++) {
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}
async function probe() {
  await settled();
  const table = document.querySelector("table"), button = table.querySelectorAll("th button")[1];
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent);
  const order = () => button.parentElement.getAttribute("aria-sort");
  const found = { before: order() };
  button.focus();
  found.focused = document.activeElement === button;
  button.click();
  found.first = [order(), column()];
  button.click();
  found.second = [order(), column()];
  const name = document.querySelector(".legend button"), plot = name.closest("figure").querySelector(".plot");
  const visible = () => plot.data.filter(trace => trace.visible !== false).length;
  found.lines = [visible()];
  name.click();
  found.lines.push(visible());
  const choices = document.querySelector("select"), boxes = [...document.querySelectorAll("[data-choice]")];
  choices.value = choices.options[choices.options.length - 1].value;
  choices.dispatchEvent(new Event("change"));
  found.shown = boxes.filter(box => !box.hidden).map(box => box.dataset.choice);
  found.chosen = choices.value;
  await settled();
  found.plots = shown().length;
  found.drawn = drawn().length;
  found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.requests = performance.getEntriesByType("resource").map(entry => entry.name);
  return found;
}
probe().catch(error => ({ wrong: wrong.push("probe: " + error) })).then(found => {
  const result = document.createElement("pre");
  result.id = "probe";
  result.textContent = JSON.stringify({ ...found, wrong });
  document.body.append(result);
});
</script>"""

# A page in a frame as wide as a phone, which no window of a browser is: what of it lies outside, other than
# inside a box that scrolls, and how many plots are drawn wider than their boxes.
FRAME = """<body style="margin:0"><iframe src="page.html" style="width:400px;height:9000px;border:0"></iframe>
<script>
async function measure() {
  const page = document.querySelector("iframe").contentDocument;
  const plots = () => [...page.querySelectorAll(".plot")].filter(plot => plot.offsetParent);
  const undrawn = () => plots().some(plot => !plot.querySelector("svg.main-svg .cartesianlayer path"));
  for (let step = 0; step < 1000 && (!plots().length || undrawn()); step++) {
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  const outside = [...page.body.querySelectorAll("*")].filter(element =>
    !element.parentElement.closest(".scroll") && element.getBoundingClientRect().right > 400.5);
  const wide = plots().filter(plot => plot.querySelector("svg").clientWidth > plot.clientWidth + 1);
  const boxes = [...page.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth);
  const names = [...page.querySelectorAll("td:first-child")].filter(one => one.scrollWidth > one.clientWidth);
  return {
    width: page.documentElement.clientWidth, outside: outside.map(one => one.outerHTML.slice(0, 80)),
    wide: wide.length, undrawn: undrawn(), names: names.length, hidden: boxes.filter(box =>
      page.defaultView.getComputedStyle(box).overflowX !== "auto").length, scrolls: boxes.length,
  };
}
addEventListener("load", () => measure().catch(error => ({ error: String(error) })).then(found => {
  const result = document.createElement("pre");
  result.id = "probe";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
}));
</script></body>"""


@pytest.fixture
def browse(tmp_path):
    """Opens a page in a browser, and returns what the probe found there."""
    if BROWSER is None:
        pytest.skip("no Chromium")

    def opened(page, width=1200, frame=False):
        path = tmp_path / "page.html"
        if frame:
            path.write_text(page)
            path = tmp_path / "frame.html"
            path.write_text(FRAME)
        else:
            path.write_text(page.replace("<body>", f"<body>{WATCH}", 1).replace("</body>", f"{PROBE}</body>"))
        command = [
            BROWSER,
            *OPTIONS,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},12000",
            *(["--allow-file-access-from-files", "--hide-scrollbars"] if frame else []),
        ]
        done = subprocess.run(
            [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=300, check=True
        )
        (text,) = re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
        return json.loads(unescape(text))

    return opened


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_in_a_browser(results, browse, width):
    found = browse(report.html(results), width)
    assert found["wrong"] == []
    assert found["requests"] == []
    # 2 attacks x (curves, credits), a map, a profile, 2 of detection
    assert found["plots"] == found["drawn"] == 8
    assert found["wide"] <= 0
    assert (found["before"], found["focused"]) == ("none", True)
    first, second = found["first"], found["second"]
    assert (first[0], second[0]) == ("descending", "ascending")
    values = [float(text.split()[0].rstrip("†")) for text in first[1]]
    assert values == sorted(values, reverse=True)
    assert sorted(first[1]) == sorted(second[1])
    assert [float(text.split()[0].rstrip("†")) for text in second[1]] == sorted(values)
    assert found["lines"][1] < found["lines"][0]
    assert set(found["shown"]) == {found["chosen"]}


@pytest.mark.slow
def test_on_a_phone_nothing_is_cut_off(many, results, browse):
    """Tables and maps scroll inside their boxes, and everything else fits."""
    long = "learning_rate={initial=0.1 schedule=cosine}, partition=dirichlet:alpha=0.1, task=synthetic"
    names = [f"{long}, qv_size={size}" for size in (5, 10)]
    for page in (report.html(many), sweep_html([results, results], names, ["a", "b"])):
        found = browse(page, frame=True)
        assert found["width"] == 400
        assert found["outside"] == []
        assert (found["wide"], found["undrawn"], found["names"], found["hidden"]) == (0, False, 0, 0)
        assert found["scrolls"]


@pytest.mark.slow
def test_odd_names_in_a_browser(results, browse):
    """Names reach the reader as they are, and cannot end an element."""
    odd = """</script><b>"$x$&amp;%{y}"""
    found = browse(report.html(renamed(results, "krum", odd)))
    assert found["wrong"] == []
    assert found["plots"] == found["drawn"]


def renamed(results, policy, name):
    """The results with another name for a policy."""
    policies = tuple(name if one == policy else one for one in results.comparison.policies)
    comparison = dataclasses.replace(results.comparison, policies=policies)
    tables = {one: getattr(results, one).replace(policy, name) for one in ("runs", "curves", "expected")}
    return dataclasses.replace(results, comparison=comparison, **tables)


def test_the_page_needs_nothing_else(results):
    page = report.html(results)
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|img|iframe|link|object)[^>]* (src|href)=", page)
    assert "plotly.js (cartesian - minified) v4.1.1" in page
    assert len(page) < 2_500_000


def test_odd_names_are_escaped(results):
    page = report.html(renamed(results, "krum", "<i>krum</i>"))
    assert "<i>krum" not in page
    assert "<td>&lt;i&gt;krum&lt;/i&gt;" in page
    assert '"name":"&lt;i&gt;krum' in page  # as plotly reads it


def test_every_setting_is_listed(results):
    page = report.html(results)
    for name, value in (("batch_size", results.configuration["batch_size"]), ("momentum", "0.0")):
        assert f"<tr><td>{name}</td><td>{value}</td></tr>" in page.replace("<wbr>", "")
    assert results.configuration["code"] in page
    assert results.machines[0] in page
    assert results.command in page


def test_an_unfinished_comparison_says_so(results):
    failed = results.runs.tail(1)[["policy", "num_byzantine", "attack", "seed"]].assign(error="Error: <no>")
    part = dataclasses.replace(results, runs=results.runs.head(-2), failed=failed)
    page = report.html(part)
    assert (
        '<p class="warning"><b>Unfinished: 18 of 20 runs, 1 failed</b> (<a href="#failed">errors</a>).'
        in page
    )
    assert "<td>Error: &lt;no&gt;</td>" in page
    assert "Unfinished" not in report.html(results)


def test_the_page_of_a_sweep_is_about_all_settings(results):
    changes = {"task": "digits", "num_workers": 20, "attacks": ("sign_flip",), "policies": ("mean", "median")}
    configuration = results.configuration | {"task": "digits", "qv_size": 5}
    other = dataclasses.replace(
        results,
        comparison=dataclasses.replace(results.comparison, **changes),
        configuration=configuration,
        runs=results.runs[results.runs["policy"] == "mean"],
        machines=["another machine"],
    )
    page = sweep_html([results, other], ["task=synthetic", "task=digits"], ["task=synthetic", "default"])
    assert "<h1>byzgym sweep: synthetic, digits</h1>" in page
    assert "<tr><td>task</td><td>synthetic; digits</td></tr>" in page.replace("<wbr>", "")
    assert "<tr><td>qv_size</td><td>10; 5</td></tr>" in page.replace("<wbr>", "")
    assert f"<td>{results.machines[0]}; another machine</td>" in page
    assert "f = 7 of 10 or 20 workers" in page
    assert "<td>4 of 20</td>" in page  # runs of the second one
    assert page.index('id="made"') < page.index(
        "threat_model.md and threat_model.json in the folder of a setting"
    )


def test_credits_are_thinned_to_the_size_of_a_page(results):
    few = credits.bins(results, 10)
    runs = pd.concat([results.runs.assign(num_byzantine=f) for f in range(200)])
    many = credits.bins(dataclasses.replace(results, runs=runs), 10)
    assert few == 120
    assert many == 15
