"use strict";

// Tables: a click on a heading, or Enter on it, sorts by this column; once more turns the order round.
function key(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace("−", "-"));
  return { text, number, missing: text === "" || text.startsWith("–") };
}
function compare(a, b) {
  if (!isNaN(a.number) && !isNaN(b.number)) return a.number - b.number;
  return a.text.localeCompare(b.text, undefined, { numeric: true });
}
function sort(heading) {
  const table = heading.closest("table");
  const headings = [...heading.parentElement.children];
  const column = headings.indexOf(heading);
  const rows = [...table.tBodies[0].rows].map(row => [key(row, column), row]);
  const numeric = rows.some(([k]) => !k.missing && !isNaN(k.number));
  const now = heading.getAttribute("aria-sort");
  const next = now === "none" ? (numeric ? "descending" : "ascending")
    : now === "ascending" ? "descending" : "ascending";
  headings.forEach(other => other.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  rows.sort(([a], [b]) => a.missing - b.missing || sign * compare(a, b)); // what is missing stays last
  table.tBodies[0].append(...rows.map(([, row]) => row));
}
document.querySelectorAll("th[aria-sort] button").forEach(button =>
  button.addEventListener("click", () => sort(button.parentElement)));

// Figures: each is drawn as large as its place.
const buttons = [["toImage", "resetScale2d"]];
function draw(plot) {
  if (plot.dataset.drawn) return;
  plot.dataset.drawn = "yes";
  const figure = JSON.parse(plot.querySelector("script").textContent);
  const hidden = hiddenIn(plot.closest("figure"));
  figure.data.forEach(trace => { trace.visible = !hidden.has(trace.legendgroup || trace.name); });
  figure.layout.autosize = true;
  plot.replaceChildren();
  const image = { filename: plot.dataset.title.replace(/[^\w.=-]+/g, "_"), scale: 2 };
  Plotly.newPlot(plot, figure.data, figure.layout,
    { displaylogo: false, responsive: true, modeBarButtons: buttons, toImageButtonOptions: image });
}
// One after the other, so that the page can be read and scrolled meanwhile; what a choice hides comes later.
const waiting = [...document.querySelectorAll(".plot")].filter(plot => plot.offsetParent);
function drawNext() {
  if (!waiting.length) return;
  draw(waiting.shift());
  setTimeout(drawNext);
}
setTimeout(drawNext);

// Legends: a name hides and shows its lines in all figures of its group.
function hiddenIn(figure) {
  const off = figure.querySelectorAll(".legend button[aria-pressed=false]");
  return new Set([...off].map(button => button.dataset.name));
}
document.querySelectorAll(".legend button").forEach(button => button.addEventListener("click", () => {
  const on = button.getAttribute("aria-pressed") === "true";
  button.setAttribute("aria-pressed", String(!on));
  button.closest("figure").querySelectorAll(".plot[data-drawn]").forEach(plot => {
    const which = plot.data.flatMap((trace, i) => (trace.legendgroup || trace.name) === button.dataset.name ? [i] : []);
    if (which.length) Plotly.restyle(plot, { visible: !on }, which);
  });
}));

// Choices: only the figures of one policy are shown.
document.querySelectorAll("select").forEach(select => select.addEventListener("change", () =>
  select.closest("figure").querySelectorAll("[data-choice]").forEach(box => {
    box.hidden = box.dataset.choice !== select.value;
    if (!box.hidden) box.querySelectorAll(".plot").forEach(draw);
  })));
