"use strict";
const FIELDS = ["provider", "timer", "status", "state", "text"];
const form = document.querySelector(".filter");
const tip = document.getElementById("tip");

/* The hash holds an anchor, or the filter: #layer-1a2b3c4d or #provider=triton&state=SLOW; theme=dark works with both.
   Where a page has several timers one is shown: that of the hash, of the anchor (#layer-1a2b3c4d-cold), or the default. */
function readHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (form && !wanted.get("timer")) wanted.set("timer", findAnchor()?.dataset.timer || form.elements.timer.dataset.default);
  return wanted;
}

function findAnchor() {
  return document.getElementById(location.hash.slice(1));
}

function writeHash() {
  const chosen = FIELDS.map((name) => [name, form.elements[name].value]);
  const wanted = new URLSearchParams(chosen.filter(([name, value]) => value && value !== form.elements[name].dataset.default));
  const theme = readHash().get("theme");
  if (theme) wanted.set("theme", theme);
  history.replaceState(null, "", "#" + wanted);
  applyFilter();
}

function isWanted(wanted, value) {
  return !wanted || wanted === "any" || wanted === value;
}

function matches(row, wanted) {
  const text = (wanted.get("text") || "").toLowerCase();
  const label = row.closest("section")?.querySelector("h2")?.textContent ?? "";
  return ["provider", "timer", "status", "state"].every((name) => isWanted(wanted.get(name), row.dataset[name]))
    && (label + " " + row.textContent).toLowerCase().includes(text);
}

function applyFilter() {
  const wanted = readHash();
  if (wanted.get("theme")) document.documentElement.dataset.theme = wanted.get("theme");
  if (!form) return;
  for (const name of FIELDS) form.elements[name].value = wanted.get(name) || "";
  const rows = [...document.querySelectorAll("tr.row")];
  for (const row of rows) row.hidden = !matches(row, wanted);
  for (const body of document.querySelectorAll(".layer tbody, .layer")) body.hidden = !body.querySelector("tr.row:not([hidden])");
  for (const panel of document.querySelectorAll(".panel")) panel.hidden = !isWanted(wanted.get("timer"), panel.dataset.timer);
  for (const mark of document.querySelectorAll(".layer .chart [data-provider], .legend [data-provider]")) {
    mark.classList.toggle("dim", Boolean(wanted.get("provider")) && mark.dataset.provider !== wanted.get("provider"));
  }
  form.querySelector("output").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
}

function showTip(point) {
  document.querySelectorAll(".current").forEach((other) => other.classList.remove("current"));
  tip.hidden = !point;
  if (!point) return;
  point.classList.add("current");
  tip.textContent = point.dataset.tip;
  const at = point.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(at.right + 8, innerWidth - tip.offsetWidth - 4)) + "px";
  tip.style.top = Math.max(4, at.top - tip.offsetHeight - 6) + "px";
}

/* Arrow keys walk through the points of the chart that has the focus. */
function walkPoints(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const points = [...event.currentTarget.querySelectorAll(".point")];
  if (!step || !points.length) return;
  event.preventDefault();
  const at = points.findIndex((point) => point.classList.contains("current"));
  showTip(points[(at + step + points.length + (at < 0 && step < 0 ? 1 : 0)) % points.length]);
}

for (const title of document.querySelectorAll(".point > title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}
for (const chart of document.querySelectorAll(".chart")) {
  chart.addEventListener("pointerover", (event) => showTip(event.target.closest(".point")));
  chart.addEventListener("pointerleave", () => showTip(null));
  chart.addEventListener("blur", () => showTip(null));
  chart.addEventListener("keydown", walkPoints);
}
document.addEventListener("keydown", (event) => event.key === "Escape" && showTip(null));
document.documentElement.classList.add("js");
if (form) {
  form.addEventListener("input", writeHash);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(writeHash));
}
addEventListener("hashchange", () => {
  applyFilter();
  findAnchor()?.scrollIntoView();
});
applyFilter();
