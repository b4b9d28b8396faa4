"use strict";
const FILTERS = ["kernel", "model", "provider", "device", "timer", "status", "state"];
const MOST_ROWS = 200;
const form = document.querySelector(".filter");
const fields = [...(form?.elements ?? [])].map((element) => element.name).filter(Boolean);
const tip = document.getElementById("tip");

/* The hash holds an anchor, or the filter: #layer-1a2b3c4d or #provider=triton&state=SLOW; theme=dark works with both.
   Where a page has several timers one is shown: that of the hash, of the anchor (#row-1a2b3c4d5e6f), or the default. */
function readHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (fields.includes("timer") && !wanted.get("timer")) {
    wanted.set("timer", findAnchor()?.dataset.timer || form.elements.timer.dataset.default);
  }
  return wanted;
}

function findAnchor() {
  return document.getElementById(location.hash.slice(1));
}

function writeHash() {
  const chosen = fields.map((name) => [name, form.elements[name].value]);
  const wanted = new URLSearchParams(chosen.filter(([name, value]) => value && value !== form.elements[name].dataset.default));
  const theme = readHash().get("theme");
  if (theme) wanted.set("theme", theme);
  history.replaceState(null, "", "#" + wanted);
  applyFilter();
}

function isWanted(wanted, value) {
  return !wanted || wanted === "any" || value === undefined || wanted === value;
}

function matches(row, wanted) {
  const text = (wanted.get("text") || "").toLowerCase();
  const tellRow = () => (row.closest("section")?.querySelector("h2")?.textContent ?? "") + " " + row.textContent;
  return FILTERS.every((name) => isWanted(wanted.get(name), row.dataset[name]))
    && (!text || tellRow().toLowerCase().includes(text));
}

function applyFilter() {
  const wanted = readHash();
  applyTheme(wanted.get("theme"));
  if (!form) return;
  for (const name of fields) form.elements[name].value = wanted.get(name) || "";
  for (const panel of document.querySelectorAll(".panel")) {
    panel.hidden = !isWanted(wanted.get("timer"), panel.dataset.timer) || !isWanted(wanted.get("device"), panel.dataset.device);
  }
  for (const mark of document.querySelectorAll(".chart [data-provider], .legend [data-provider]")) {
    mark.classList.toggle("dim", Boolean(wanted.get("provider")) && mark.dataset.provider !== wanted.get("provider"));
  }
  if (document.getElementById("found")) return listSeries(wanted, MOST_ROWS);
  const rows = [...document.querySelectorAll("tr.row")];
  if (!rows.length) return;
  for (const row of rows) row.hidden = !matches(row, wanted);
  for (const body of document.querySelectorAll(".layer tbody, .layer")) body.hidden = !body.querySelector("tr.row:not([hidden])");
  tellNumber(rows.filter((row) => !row.hidden).length, rows.length);
}

function tellNumber(shown, all) {
  form.querySelector("output").textContent = `${shown} of ${all} rows`;
}

/* Themes */

function applyTheme(wanted) {
  const theme = wanted || recallTheme();
  if (theme) document.documentElement.dataset.theme = theme;
  document.getElementById("theme").textContent = isDark() ? "Light" : "Dark";
}

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function recallTheme() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // a browser may refuse pages from disk
  }
}

function turnTheme() {
  const theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // as above: it then holds for this page
  }
  const wanted = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  if (wanted.get("theme")) {
    wanted.set("theme", theme);
    history.replaceState(null, "", "#" + wanted);
  }
  applyTheme(theme);
}

/* The list of all series */

function findSeries(wanted) {
  const at = Object.fromEntries(SERIES.fields.map((name, place) => [name, place]));
  const text = (wanted.get("text") || "").toLowerCase();
  return SERIES.rows.filter((row) => FILTERS.every((name) => isWanted(wanted.get(name), row[at[name]]))
    && (!text || `${row[at.layer]} ${row[at.case]}`.toLowerCase().includes(text)));
}

function listSeries(wanted, most) {
  const found = findSeries(wanted);
  const body = document.createElement("tbody");
  body.append(...found.slice(0, most).map(makeRow));
  document.querySelector("#found tbody").replaceWith(body);
  document.getElementById("more").hidden = found.length <= most;
  document.getElementById("more").onclick = () => listSeries(wanted, 10 * most);
  document.getElementById("csv").onclick = () => save("series.csv", "text/csv", toCsv([SERIES.fields, ...found]));
  tellNumber(found.length, SERIES.rows.length);
}

function makeRow(values) {
  const series = Object.fromEntries(SERIES.fields.map((name, place) => [name, values[place]]));
  const row = document.createElement("tr");
  const state = addCell(row, "td", "");
  if (series.state) {
    const badge = document.createElement("span");
    badge.className = `state state-${series.state.toLowerCase()}`;
    badge.textContent = series.state;
    state.append(badge);
  }
  const link = document.createElement("a");
  link.href = series.href;
  link.textContent = `${series.kernel}: ${series.layer}`;
  const layer = addCell(row, "th", "");
  layer.scope = "row";
  layer.className = "layer-name";
  layer.append(link);
  for (const name of ["case", "provider", "timer"]) addCell(row, "td", series[name]);
  addCell(row, "td", series.median ?? series.status.replaceAll("_", " ")).className = "number";
  addCell(row, "td", tellChange(series.change)).className = "number";
  addCell(row, "td", tellChange(series.month)).className = "number";
  return row;
}

function addCell(row, tag, text) {
  const cell = row.appendChild(document.createElement(tag));
  cell.textContent = text;
  return cell;
}

function tellChange(change) {
  return change === null ? "" : `${change < 0 ? "" : "+"}${(100 * change).toFixed(1)}%`;
}

/* Values of charts: under the pointer, or one after the other by the arrow keys */

function showTip(point, text = point?.dataset.tip) {
  document.querySelectorAll(".current").forEach((other) => other.classList.remove("current"));
  tip.hidden = !point;
  if (!point) return;
  point.classList.add("current");
  tip.textContent = text;
  const at = point.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(at.right + 8, innerWidth - tip.offsetWidth - 4)) + "px";
  tip.style.top = Math.max(4, at.top - tip.offsetHeight - 6) + "px";
}

function walkPoints(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const points = [...event.currentTarget.querySelectorAll(".point")];
  if (!step || !points.length) return;
  event.preventDefault();
  const at = points.findIndex((point) => point.classList.contains("current"));
  showTip(points[(at + step + points.length + (at < 0 && step < 0 ? 1 : 0)) % points.length]);
}

/* The nights of one series: lines of night, steps of the median from the line before, steps down to p20 and up to p80,
   relative error, floor. An empty cell repeats the one above, and an empty night is the next */

function readNights(text, decimals) {
  const tellTime = (steps) => (steps / 10 ** decimals).toFixed(decimals);
  let [night, median, error, floor] = [-1, 0, "", ""];
  return text.trim().split("\n").map((line) => {
    const cells = line.split(",");
    night = cells[0] ? Number(cells[0]) : night + 1;
    median += Number(cells[1]);
    [error, floor] = [cells[4] || error, cells[5] || floor];
    const [run, started, commit] = NIGHTS[night];
    return {
      night, run, started, commit,
      median_us: tellTime(median),
      p20_us: tellTime(median - cells[2]),
      p80_us: tellTime(median + Number(cells[3])),
      relative_error: error === "none" ? "" : error,
      share: floor === "none" ? "" : (floor / tellTime(median)).toPrecision(3),
    };
  });
}

function tellNight(night) {
  const error = night.relative_error && `, error ${night.relative_error}`;
  const share = night.share && `, ${Math.round(100 * night.share)}% of the roofline`;
  return `${night.started}: ${night.median_us} us (p20 ${night.p20_us}, p80 ${night.p80_us})${share}${error}, run ${night.run}`
    + (night.commit && `, commit ${night.commit}`);
}

function followNights(frame, nights) {
  const chart = frame.querySelector(".chart");
  const line = frame.appendChild(document.createElement("span"));
  const moments = NIGHTS.map(([, started]) => Date.parse(started.replace(" UTC", "Z").replace(" ", "T")));
  const isOrdered = moments.every((moment, place) => !place || moments[place - 1] <= moment);
  const steps = isOrdered ? moments : moments.map((_, place) => place);
  const length = steps.at(-1) - steps[0];
  const places = nights.map((night) => (length ? (steps[night.night] - steps[0]) / length : 0.5));
  const scale = () => chart.getBoundingClientRect().width / chart.viewBox.baseVal.width;
  const left = Number(frame.dataset.left), width = Number(frame.dataset.right) - left;
  let at = -1;
  line.className = "here";
  line.hidden = true;
  const show = (place) => {
    at = place;
    line.hidden = at < 0;
    line.style.left = at < 0 ? 0 : (left + width * places[at]) * scale() + "px";
    showTip(at < 0 ? null : line, at < 0 ? "" : tellNight(nights[at]));
  };
  chart.addEventListener("pointermove", (event) => {
    const x = ((event.clientX - chart.getBoundingClientRect().left) / scale() - left) / width;
    show(places.reduce((best, place, number) => (Math.abs(place - x) < Math.abs(places[best] - x) ? number : best), 0));
  });
  chart.addEventListener("pointerleave", () => show(-1));
  chart.addEventListener("blur", () => show(-1));
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show((Math.max(at, step > 0 ? at : 0) + step + nights.length) % nights.length);
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && show(-1));
}

/* What is on the page as a file */

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function toCsv(rows) {
  return rows.map((row) => row.map((cell) => (/[",\n]/.test(cell ?? "") ? `"${cell.replaceAll('"', '""')}"` : cell ?? "")).join(",")).join("\n") + "\n";
}

function savePicture(chart, name) {
  const copy = chart.cloneNode(true);
  const [from, to] = [chart, copy].map((root) => [root, ...root.querySelectorAll("*")]);
  from.forEach((element, place) => {
    if (element.closest("defs")) return; // the shape of markers, which have each its own style
    const style = getComputedStyle(element);
    for (const part of ["fill", "stroke", "color", "opacity", "font-family", "font-size"]) to[place].style.setProperty(part, style.getPropertyValue(part));
  });
  const { width, height } = chart.viewBox.baseVal;
  copy.setAttribute("xmlns", "http" + "://www.w3.org/2000/svg");
  copy.setAttribute("width", 2 * width);
  copy.setAttribute("height", 2 * height);
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * width, 2 * height];
    const paper = canvas.getContext("2d");
    paper.fillStyle = getComputedStyle(document.body).backgroundColor;
    paper.fillRect(0, 0, canvas.width, canvas.height);
    paper.drawImage(image, 0, 0);
    canvas.toBlob((blob) => save(name + ".png", "image/png", blob));
  };
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(copy));
}

function addButton(place, text, act) {
  const button = place.appendChild(document.createElement("button"));
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", act);
}

for (const title of document.querySelectorAll(".point > title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}
for (const chart of document.querySelectorAll(".chart")) {
  chart.addEventListener("pointerover", (event) => event.target.closest(".point") && showTip(event.target.closest(".point")));
  chart.addEventListener("pointerout", (event) => event.target.closest(".point") && showTip(null));
  chart.addEventListener("blur", () => showTip(null));
  chart.addEventListener("keydown", walkPoints);
}
const data = document.getElementById("data");
if (data) {
  const nights = readNights(data.textContent, Number(data.dataset.decimals));
  followNights(document.querySelector(".nights-of"), nights);
  const columns = Object.keys(nights[0]).filter((name) => name !== "night");
  for (const place of document.querySelectorAll(".saves[data-name]")) {
    const chart = place.closest("figure").querySelector(".chart");
    if (!place.querySelector("a")) addButton(place, "PNG", () => savePicture(chart, place.dataset.name));
    addButton(place, "CSV", () => save(place.dataset.name + ".csv", "text/csv", toCsv([columns, ...nights.map((night) => columns.map((name) => night[name]))])));
  }
}
document.addEventListener("keydown", (event) => event.key === "Escape" && showTip(null));
document.documentElement.classList.add("js");
document.getElementById("theme").hidden = false;
document.getElementById("theme").addEventListener("click", turnTheme);
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
findAnchor()?.scrollIntoView();
