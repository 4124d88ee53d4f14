"use strict";
// The page is complete without this: it lets a reader move the threshold and sort tables.

const byId = (name) => document.getElementById(name);

function explore() {
  const scores = JSON.parse(byId("scores").textContent);
  const choice = byId("explore-row"), slider = byId("explore-threshold");
  const percent = (part, whole) => (whole ? (100 * part / whole).toFixed(1) + " %" : "undefined");
  function show() {
    const { tp: found, fp: wrong } = scores[choice.value], step = Number(slider.value);
    const positives = found[0], negatives = wrong[0];  // at threshold 0 everything is called
    const x = (i) => 100 * wrong[i] / (negatives || 1), y = (i) => 100 - 100 * found[i] / (positives || 1);
    const tp = found[step], fp = wrong[step], fn = positives - tp, tn = negatives - fp;
    const value = (step / 100).toFixed(2);
    byId("explore-value").textContent = value;
    slider.setAttribute("aria-valuetext", value);
    byId("explore-curve").setAttribute("points", found.map((_, i) => x(i) + "," + y(i)).join(" ") + " 0,100");
    byId("explore-point").setAttribute("cx", x(step));
    byId("explore-point").setAttribute("cy", y(step));
    for (const [name, count, whole] of [["tn", tn, negatives], ["fp", fp, negatives], ["fn", fn, positives], ["tp", tp, positives]]) {
      byId("explore-" + name).textContent = count;
      byId("explore-" + name).style.setProperty("--share", whole ? count / whole : 0);
    }
    byId("explore-accuracy").textContent = percent(tp + tn, positives + negatives);
    byId("explore-sensitivity").textContent = percent(tp, positives);
    byId("explore-specificity").textContent = percent(tn, negatives);
    byId("explore-ppv").textContent = percent(tp, tp + fp);
    byId("explore-npv").textContent = percent(tn, tn + fn);
  }
  choice.addEventListener("change", show);
  slider.addEventListener("input", show);
  byId("explore").hidden = false;
  show();
}

// one body, every row with all its cells: what spans rows is repeated
function flatten(table) {
  for (const body of table.tBodies) {
    for (const row of [...body.rows]) {
      for (const cell of [...row.cells].filter((item) => item.rowSpan > 1)) {
        const at = [...row.cells].indexOf(cell), span = cell.rowSpan;
        cell.rowSpan = 1;
        let next = row;
        for (let i = 1; i < span; i++) {
          next = next.nextElementSibling;
          next.insertBefore(cell.cloneNode(true), next.cells[at]);
        }
      }
    }
    if (body !== table.tBodies[0]) table.tBodies[0].append(...body.rows);
  }
  for (const cell of table.querySelectorAll("[scope=rowgroup]")) cell.scope = "row";
  [...table.tBodies].slice(1).forEach((body) => body.remove());
}

function key(row, column) {
  let at = 0;
  for (const cell of row.cells) {
    at += cell.colSpan;
    if (at <= column) continue;
    const text = (cell.firstChild ? cell.firstChild.textContent : "").trim();
    const number = parseFloat(text.replace(/[−–]/, "-").replace(/[,<]/g, ""));
    return Number.isNaN(number) ? text : number;
  }
  return "";
}

function sort(table, column, head) {
  flatten(table);
  const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
  const numeric = rows.some(([value]) => typeof value === "number");
  const was = head.getAttribute("aria-sort");
  const down = was ? was === "ascending" : numeric;  // numbers start with the largest, names with A
  rows.sort(([a], [b]) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;  // what is no number goes last, either way
    return (down ? -1 : 1) * (typeof a === "number" ? a - b : a.localeCompare(b));
  });
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column, head));
    head.append(button);
  });
}
if (byId("scores")) explore();
