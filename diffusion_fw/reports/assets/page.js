/* The page's own script. Texts of runs are set as text, never as HTML; in charts they pass through plain(). */
(() => {
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const unique = (items) => [...new Set(items)];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "cross"];
const COLOURS = 7;

/** A text as a chart shows it unchanged: plotly reads tags, entities, templates and TeX in labels. */
const plain = (text, longest = 70) => {
  const half = Math.floor(longest / 2);
  const shown = text.length > longest ? `${text.slice(0, half)}…${text.slice(1 - half)}` : text;
  return shown.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%/g, "&#37;").replace(/\$/g, "&#36;");
};
const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "");
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const deviation = (values) => {
  if (values.length < 2) return 0;
  const centre = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1));
};
const colour = (setting) => token(`--s${setting % COLOURS}`);
const dash = (setting) => DASHES[Math.floor(setting / COLOURS) % DASHES.length];

/* ---- the table ---- */

const table = byId("rows");
const bodies = Object.fromEntries(all("tbody", table).map((body) => [body.dataset.rows, body]));
const titles = ["run", ...data.columns.map((column) => column.title)];
let mode = "runs";
let sorted = { column: 0, descending: false };

const valueOf = (cell) => (cell.dataset.value === "" ? NaN : Number(cell.dataset.value));

/** Numbers before texts; empty cells last in both directions. */
function compareCells(a, b, descending) {
  const sign = descending ? -1 : 1;
  const [x, y] = [valueOf(a), valueOf(b)];
  if (Number.isFinite(x) || Number.isFinite(y)) {
    if (!Number.isFinite(x)) return 1;
    if (!Number.isFinite(y)) return -1;
    return sign * (x - y);
  }
  const [s, t] = [a.textContent.trim(), b.textContent.trim()];
  if (!s || !t) return (s ? 0 : 1) - (t ? 0 : 1);
  return sign * s.localeCompare(t, undefined, { numeric: true });
}

function sort(column, descending) {
  sorted = { column, descending };
  for (const body of Object.values(bodies)) {
    const rows = [...body.rows];
    rows.sort((a, b) => compareCells(a.cells[column], b.cells[column], descending) || a.dataset.index - b.dataset.index);
    body.append(...rows);
  }
  all("thead th", table).forEach((head, place) => {
    head.setAttribute("aria-sort", place === column ? (descending ? "descending" : "ascending") : "none");
  });
}

/** The test that a word of the filter stands for. */
function condition(word) {
  const parts = /^([^<>=!]+)(<=|>=|!=|<|>|=)(.+)$/.exec(word);
  if (parts) {
    const [, name, sign, wanted] = parts;
    const exact = titles.findIndex((title) => title.toLowerCase() === name);
    const place = exact >= 0 ? exact : titles.findIndex((title) => title.toLowerCase().includes(name));
    if (place >= 0) {
      return (row) => {
        const cell = row.cells[place];
        const [value, bound] = [valueOf(cell), Number(wanted)];
        const text = cell.textContent.trim().toLowerCase();
        const same = text === wanted || (Number.isFinite(bound) && value === bound);
        if (sign === "=") return same;
        if (sign === "!=") return !same;
        if (!Number.isFinite(value) || !Number.isFinite(bound)) return false;
        return { "<": value < bound, ">": value > bound, "<=": value <= bound, ">=": value >= bound }[sign];
      };
    }
  }
  return (row) => row.textContent.toLowerCase().includes(word);
}

function filter() {
  const tests = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean).map(condition);
  for (const body of Object.values(bodies)) {
    for (const row of body.rows) row.hidden = !tests.every((test) => test(row));
  }
  update();
}

const shownRows = () => [...bodies[mode].rows].filter((row) => !row.hidden);
/** The numbers of the runs of the rows that are shown, in the order of the folders. */
const shownRuns = () => unique(shownRows().flatMap((row) => JSON.parse(row.dataset.runs))).sort((a, b) => a - b);

function chooseColumn(place, shown) {
  for (const row of table.rows) row.cells[place + 1].hidden = !shown;
}

/* ---- charts ---- */

/** Ticks at 1, 2, 5, 10, ..., or at the powers of ten alone where these are many. */
function logTicks(values) {
  const positive = values.filter((value) => value > 0);
  if (!positive.length) return {};
  const powers = [Math.min(...positive), Math.max(...positive)].map((value) => Math.floor(Math.log10(value)));
  const factors = powers[1] - powers[0] > 2 ? [1] : [1, 2, 5];
  const tickvals = [];
  for (let power = powers[0]; power <= powers[1] + 1; power += 1) for (const factor of factors) tickvals.push(factor * 10 ** power);
  return { tickvals, ticktext: tickvals.map(short) };
}

function layout(chart, x, y, traces, options) {
  const narrow = chart.clientWidth < 560;
  const axis = (title, log, values) => ({
    title: { text: plain(title), standoff: 8 }, type: log ? "log" : "linear", automargin: true, zeroline: false,
    gridcolor: token("--line"), linecolor: token("--quiet"), exponentformat: "power", ...(log ? logTicks(values) : {}),
  });
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: token("--ink"), family: "system-ui, DejaVu Sans, sans-serif", size: narrow ? 11 : 13 },
    margin: { l: 56, r: 12, t: 12, b: 48 }, hovermode: "closest", dragmode: narrow ? false : "zoom",
    hoverlabel: { bgcolor: token("--raised"), bordercolor: token("--line"), font: { color: token("--ink") }, align: "left", namelength: -1 },
    xaxis: axis(x, options.logX, traces.flatMap((trace) => trace.x)), yaxis: axis(y, options.logY, traces.flatMap((trace) => trace.y)),
    legend: { orientation: "h", y: -0.2, yanchor: "top", x: 0, font: { size: narrow ? 10 : 12 } },
    showlegend: options.legend,
    shapes: options.shapes || [],
    annotations: options.annotations || [],
  };
}
const CONFIG = {
  responsive: true, displaylogo: false, plotlyServerURL: "",
  modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
};
const MOST_NAMES = 14;

/** Draw traces {label, x, y, low, high, error, setting, lines, dashed, symbol, group}, or say why there are none. */
function draw(id, traces, x, y, options, missing) {
  const chart = byId(id), empty = byId(`${id}-empty`);
  const numbers = document.querySelector(`.numbers[data-chart="${id}"]`);
  empty.hidden = traces.length > 0;
  empty.textContent = missing;
  chart.hidden = numbers.hidden = !traces.length;
  chart.traces = { list: traces, x, y };
  fillNumbers(numbers);
  if (!traces.length) {
    Plotly.purge(chart);
    return;
  }
  const named = new Set();
  const drawn = traces.flatMap((trace) => {
    const ink = trace.colour || colour(trace.setting);
    const group = trace.group ?? trace.label;
    const first = !named.has(group);
    named.add(group);
    const line = {
      type: "scatter", mode: trace.mode || "lines", x: trace.x, y: trace.y, name: plain(group), legendgroup: group,
      showlegend: first && !trace.unnamed, meta: plain(trace.label, 160), line: { color: ink, width: 2, dash: trace.dash || dash(trace.setting), shape: trace.shape },
      marker: { color: ink, size: 8, symbol: trace.symbol || "circle" },
      hovertemplate: `<b>%{meta}</b><br>${plain(x)} %{x}<br>${plain(y)} %{y:.4~g}<extra></extra>`,
    };
    if (trace.plus) line.error_y = { type: "data", symmetric: false, array: trace.plus, arrayminus: trace.minus, color: ink, thickness: 1.2, width: 3 };
    if (!trace.low) return [line];
    // A band down to 0 has no lower edge on a logarithmic axis.
    const low = options.logY ? trace.low.map((value, place) => Math.max(value, trace.y[place] / 10)) : trace.low;
    const band = {
      type: "scatter", mode: "lines", x: [...trace.x, ...[...trace.x].reverse()], y: [...trace.high, ...[...low].reverse()],
      fill: "toself", fillcolor: ink, opacity: 0.16, line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: group,
    };
    return [band, line];
  });
  Plotly.react(chart, drawn, layout(chart, x, y, traces, { ...options, legend: named.size > 1 && named.size <= MOST_NAMES }), CONFIG);
}

function fillNumbers(details) {
  const region = details.querySelector("div");
  region.replaceChildren();
  const shown = byId(details.dataset.chart).traces;
  if (!details.open || !shown) return;
  const own = document.createElement("table");
  const add = (texts, tag) => {
    const row = document.createElement("tr");
    for (const text of texts) {
      const cell = document.createElement(tag);
      cell.textContent = text;
      row.append(cell);
    }
    own.append(row);
  };
  add(["", shown.x, shown.y], "th");
  const rows = shown.list.flatMap((trace) => trace.x.map((x, place) => [trace.label, short(x), short(trace.y[place])]));
  for (const row of rows.slice(0, 3000)) add(row, "td");
  if (rows.length > 3000) add([`${rows.length - 3000} more`, "", ""], "td");
  region.append(own);
}

/** Lines of runs, or of the settings' means with their deviation over the seeds; read(run) gives [x, y] or nothing. */
function lines(read) {
  const runs = shownRuns().map((index) => data.runs[index]);
  if (mode === "runs") {
    return runs.flatMap((run) => {
      const found = read(run);
      const label = data.settings[run.setting].label;
      const named = label === run.name ? run.name : `${run.name}: ${label} seed=${run.seed}`;
      return found ? [{ label: named, group: label, x: found[0], y: found[1], setting: run.setting }] : [];
    });
  }
  return unique(runs.map((run) => run.setting)).flatMap((setting) => {
    const points = new Map();
    for (const run of runs.filter((item) => item.setting === setting)) {
      const [xs, ys] = read(run) || [[], []];
      xs.forEach((x, place) => points.set(x, [...(points.get(x) || []), ys[place]]));
    }
    const most = Math.max(0, ...[...points.values()].map((values) => values.length));
    // Where fewer seeds have a value the mean would jump.
    const kept = [...points].filter(([, values]) => values.length === most).sort((a, b) => a[0] - b[0]);
    if (!kept.length) return [];
    const y = kept.map(([, values]) => mean(values)), spread = kept.map(([, values]) => deviation(values));
    const band = most > 1 ? { low: y.map((v, i) => v - spread[i]), high: y.map((v, i) => v + spread[i]) } : {};
    return [{ label: data.settings[setting].label, x: kept.map(([x]) => x), y, setting, ...band }];
  });
}

/** A curve over several powers of ten starts out logarithmic. */
function scaleCurve() {
  const values = data.runs.flatMap((run) => run.curves[byId("curve").value]?.[1] || []);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  byId("curve-log-y").checked = low > 0 && high > 20 * low;
}

function drawLearning() {
  const name = byId("curve").value;
  const traces = lines((run) => run.curves[name]).map((trace) => ({ ...trace, mode: trace.x.length < 40 ? "lines+markers" : "lines" }));
  for (const trace of traces) trace.symbol = "circle";
  const options = { logX: byId("curve-log-x").checked, logY: byId("curve-log-y").checked };
  draw("learning-chart", traces, "step", name || "value", options, "No run that is shown has these numbers in its metrics.csv.");
}

const upTo = (list, step) => list.filter(([at]) => at <= step).pop();

function drawNoise() {
  const slider = byId("noise-step"), step = steps.noise[slider.value] ?? 0;
  byId("noise-at").textContent = steps.noise.length ? `step ${step.toLocaleString("en")}` : "";
  const traces = lines((run) => upTo(run.snr, step)?.slice(1)).map((trace) => ({ ...trace, mode: "lines+markers" }));
  draw("noise-chart", traces, "log-SNR, noise on the left", "held-out loss", { logY: byId("noise-log-y").checked }, "No run that is shown has evaluated its held-out loss.");
}

function drawSampling() {
  const metric = byId("sampling-y").value, cost = byId("sampling-x").value;
  const groups = new Map();
  for (const index of shownRuns()) {
    const run = data.runs[index];
    for (const item of run.measured) {
      const x = item.costs[cost];
      if (item.metric !== metric || x === undefined) continue;
      const label = [run.sampler, run.model].filter(Boolean).join(" of ") || run.name;
      const group = groups.get(label) || groups.set(label, { model: run.model, sampler: run.sampler, points: new Map(), floors: [] }).get(label);
      // Seeds have the same number of evaluations, but not the same seconds: points are joined by setting.
      const point = group.points.get(run.setting) || group.points.set(run.setting, { x: [], y: [], interval: null }).get(run.setting);
      point.x.push(x);
      point.y.push(item.value);
      point.interval = item.interval;
      if (item.floor !== null) group.floors.push(item.floor);
    }
  }
  const samplers = unique([...groups.values()].map((group) => group.sampler)), models = unique([...groups.values()].map((group) => group.model));
  const traces = [...groups].map(([label, group]) => {
    const points = [...group.points.values()].map((point) => {
      const y = mean(point.y), spread = deviation(point.y);
      const [low, high] = point.y.length === 1 && point.interval ? point.interval : [y - spread, y + spread];
      return { x: mean(point.x), y, plus: Math.max(0, high - y), minus: Math.max(0, y - low) };
    }).sort((a, b) => a.x - b.x);
    const [s, m] = [samplers.indexOf(group.sampler), models.indexOf(group.model)];
    return {
      label, x: points.map((p) => p.x), y: points.map((p) => p.y), plus: points.map((p) => p.plus), minus: points.map((p) => p.minus),
      mode: "lines+markers", setting: s, colour: colour(s), dash: DASHES[m % DASHES.length], symbol: SYMBOLS[m % SYMBOLS.length],
    };
  });
  const floors = unique([...groups.values()].flatMap((group) => group.floors));
  const logY = byId("sampling-log-y").checked;
  const shapes = floors.slice(0, 3).map((floor) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: floor, y1: floor, line: { color: token("--quiet"), width: 1, dash: "dot" } }));
  const annotations = floors.slice(0, 3).map((floor) => ({
    xref: "paper", x: 1, y: logY ? Math.log10(Math.max(floor, 1e-12)) : floor, text: "floor", showarrow: false, yanchor: "bottom", xanchor: "right", font: { color: token("--quiet") },
  }));
  const options = { logX: byId("sampling-log-x").checked, logY, shapes, annotations };
  draw("sampling-chart", traces, cost || "cost", metric || "metric", options, "No evaluations are shown. Measure samplers by python evaluate.py -m checkpoint=... sampler=... sampler.steps=..., and give that folder to report.py too.");
}

function drawPareto() {
  const x = Number(byId("pareto-x").value), y = Number(byId("pareto-y").value);
  const quality = data.columns[y], cost = data.columns[x];
  const list = byId("front");
  list.replaceChildren();
  if (!quality || !cost) {
    draw("pareto-chart", [], "cost", "quality", {}, "No run has both a result and a cost.");
    return;
  }
  const points = shownRows().flatMap((row) => {
    const own = { x: valueOf(row.cells[x + 1]), y: valueOf(row.cells[y + 1]) };
    const setting = data.runs[JSON.parse(row.dataset.runs)[0]].setting;
    const label = mode === "runs" ? `${row.cells[0].textContent.trim()}: ${data.settings[setting].label}` : data.settings[setting].label;
    return Number.isFinite(own.x) && Number.isFinite(own.y) ? [{ ...own, setting, label }] : [];
  });
  const sign = quality.better === "higher" ? -1 : 1;
  const front = [];
  let reached = Infinity;
  for (const point of [...points].sort((a, b) => a.x - b.x || sign * (a.y - b.y))) {
    if (sign * point.y < reached) {
      reached = sign * point.y;
      front.push(point);
    }
  }
  const traces = points.length ? [{ label: "not beaten in both", unnamed: true, x: front.map((p) => p.x), y: front.map((p) => p.y), mode: "lines", shape: "hv", dash: "dot", colour: token("--quiet"), setting: 0 }] : [];
  for (const point of points) {
    traces.push({ label: point.label, group: data.settings[point.setting].label, x: [point.x], y: [point.y], mode: "markers", setting: point.setting, symbol: SYMBOLS[Math.floor(point.setting / COLOURS) % SYMBOLS.length] });
  }
  const options = { logX: byId("pareto-log-x").checked, logY: byId("pareto-log-y").checked };
  byId("front-help").textContent = `The line joins the rows that no other row beats in both: a ${quality.better} ${quality.title} is better.`;
  draw("pareto-chart", traces, cost.title, quality.title, options, "No row that is shown has both values.");
  for (const point of front) {
    const item = document.createElement("li");
    item.textContent = `${point.label}: ${quality.title} ${short(point.y)} at ${cost.title} ${short(point.x)}`;
    list.append(item);
  }
}

/* ---- pictures ---- */

const figures = (id) => all(`#${id} .sequence`).map((figure) => ({ figure, run: Number(figure.dataset.run), images: all("img", figure) }));
const grids = figures("grids"), frames = figures("frames");
const steps = {
  noise: unique(data.runs.flatMap((run) => run.snr.map(([step]) => step))).sort((a, b) => a - b),
  grid: unique(grids.flatMap(({ images }) => images.map((image) => Number(image.dataset.at)))).sort((a, b) => a - b),
};

/** Show the picture of each figure that pick(images) chooses, of the runs that are shown and have the chosen seed. */
function showPictures(list, select, pick) {
  const runs = new Set(shownRuns()), seed = byId(select).value;
  for (const { figure, run, images } of list) {
    figure.hidden = !runs.has(run) || (seed !== "" && data.runs[run].seed !== seed.slice(1));
    const chosen = pick(images);
    for (const image of images) image.hidden = image !== chosen;
    figure.querySelector(".at").textContent = chosen.dataset.label;
  }
}

function showGrids() {
  if (!grids.length) return;
  const step = steps.grid[byId("grid-step").value];
  byId("grid-at").textContent = `step ${step.toLocaleString("en")}`;
  showPictures(grids, "grid-seed", (images) => images.filter((image) => image.dataset.at <= step).pop() || images[0]);
}

function showFrames() {
  if (!frames.length) return;
  const part = byId("frame-step").value / 100;
  byId("frame-at").textContent = `${Math.round(100 * part)} % of the steps`;
  showPictures(frames, "frame-seed", (images) => images[Math.round(part * (images.length - 1))]);
}

const playing = new Map();
function play(button) {
  const slider = byId(button.dataset.slider);
  const stop = () => {
    clearInterval(playing.get(button));
    playing.delete(button);
    button.setAttribute("aria-pressed", "false");
    button.textContent = "Play";
  };
  if (playing.has(button)) return stop();
  const stride = Math.max(1, Math.round((slider.max - slider.min) / 20));
  if (slider.value === slider.max) slider.value = slider.min;
  button.setAttribute("aria-pressed", "true");
  button.textContent = "Pause";
  playing.set(button, setInterval(() => {
    slider.value = Number(slider.value) + stride;
    slider.dispatchEvent(new Event("input"));
    if (slider.value === slider.max) stop();
  }, slider.max > 20 ? 180 : 500));
}

/* ---- everything together ---- */

function drawCharts() {
  drawLearning();
  drawNoise();
  drawSampling();
  drawPareto();
}

function update() {
  const rows = [...bodies[mode].rows];
  byId("count").textContent = `${shownRows().length} of ${rows.length} rows`;
  drawCharts();
  showGrids();
  showFrames();
}

function colourSwatches() {
  for (const swatch of all(".swatch")) swatch.style.background = colour(Number(swatch.dataset.setting));
}

function restyle() {
  colourSwatches();
  drawCharts();
}

function fill(select, options) {
  for (const [value, text] of options) {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    select.append(option);
  }
  select.disabled = !options.length;
}

/** Set up a slider over a list, or over the whole of it in percent; there is nothing to slide over one item. */
function slider(id, list, last = Math.max(0, list.length - 1)) {
  const input = byId(id);
  if (!input) return;
  input.max = last;
  input.value = last;
  input.disabled = list.length < 2;
  for (const button of all(`.play[data-slider="${id}"]`)) button.disabled = input.disabled;
}

function openTarget() {
  const target = location.hash.length > 1 && byId(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}

const names = unique(data.runs.flatMap((run) => Object.keys(run.curves)));
const having = (name) => data.runs.filter((run) => name in run.curves).length;
const evaluated = names.filter((name) => !/^(train|heldout|heldout_loss)\//.test(name));
names.sort((a, b) => evaluated.includes(b) - evaluated.includes(a) || having(b) - having(a));
fill(byId("curve"), names.map((name) => [name, name]));
const metrics = unique(data.runs.flatMap((run) => run.measured.map((item) => item.metric)));
fill(byId("sampling-y"), metrics.map((name) => [name, name]));
const costs = unique(data.runs.flatMap((run) => run.measured.flatMap((item) => Object.keys(item.costs))));
fill(byId("sampling-x"), costs.map((name) => [name, name]));
const numeric = data.columns.map((column, place) => [place, column]).filter(([, column]) => column.numeric);
const results = numeric.filter(([, column]) => column.kind === "result");
fill(byId("pareto-y"), results.map(([place, column]) => [place, column.title]));
const order = { cost: 0, config: 1, result: 2 };
const measures = [...numeric].sort(([, a], [, b]) => order[a.kind] - order[b.kind]);
fill(byId("pareto-x"), measures.map(([place, column]) => [place, column.title]));
for (const [id, list] of [["grid-seed", grids], ["frame-seed", frames]]) {
  const seeds = unique(list.map(({ run }) => data.runs[run].seed));
  if (list.length) fill(byId(id), [...seeds.map((seed) => [`=${seed}`, seed || "not known"]), ["", "all"]]);
}
scaleCurve();
slider("grid-step", steps.grid);
slider("noise-step", steps.noise);
slider("frame-step", frames.map(({ images }) => images).sort((a, b) => b.length - a.length)[0] || [], 100);

all("thead button", table).forEach((button, place) => {
  button.addEventListener("click", () => {
    const better = data.columns[place - 1]?.better;
    const again = sorted.column === place && place > 0;
    sort(place, again ? !sorted.descending : place === 0 ? sorted.column === 0 && !sorted.descending : better === "higher");
    drawPareto();
  });
});
byId("filter").addEventListener("input", filter);
all('input[name="rows"]').forEach((input) => input.addEventListener("change", () => {
  mode = input.value;
  for (const [name, body] of Object.entries(bodies)) body.hidden = name !== mode;
  update();
}));
all(".column").forEach((box) => box.addEventListener("change", () => chooseColumn(Number(box.value), box.checked)));
const on = (draws, ...ids) => ids.forEach((id) => byId(id)?.addEventListener("input", draws));
on(scaleCurve, "curve");
on(drawLearning, "curve", "curve-log-x", "curve-log-y");
on(drawNoise, "noise-step", "noise-log-y");
on(drawSampling, "sampling-y", "sampling-x", "sampling-log-x", "sampling-log-y");
on(drawPareto, "pareto-y", "pareto-x", "pareto-log-x", "pareto-log-y");
on(showGrids, "grid-step", "grid-seed");
on(showFrames, "frame-step", "frame-seed");
all(".play").forEach((button) => button.addEventListener("click", () => play(button)));
all(".numbers").forEach((details) => details.addEventListener("toggle", () => fillNumbers(details)));
document.addEventListener("click", (event) => {
  for (const menu of all(".menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of all(".menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
byId("theme").addEventListener("input", (event) => {
  document.documentElement.dataset.theme = event.target.value;
  restyle();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
addEventListener("hashchange", openTarget);

/* Printed pages are light, and two charts fit on one. */
let before = null;
addEventListener("beforeprint", () => {
  before = document.documentElement.dataset.theme || "";
  document.documentElement.dataset.theme = "light";
  restyle();
  for (const chart of all(".chart:not([hidden])")) Plotly.relayout(chart, { width: 960, height: 300 });
});
addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = before;
  for (const chart of all(".chart:not([hidden])")) Plotly.relayout(chart, { width: null, height: null, autosize: true });
  restyle();
});

// A browser keeps what was typed when a page is loaded again.
mode = document.querySelector('input[name="rows"]:checked').value;
for (const [name, body] of Object.entries(bodies)) body.hidden = name !== mode;
all(".column").forEach((box) => chooseColumn(Number(box.value), box.checked));
document.documentElement.dataset.theme = byId("theme").value;
colourSwatches();
filter();
openTarget();
})();
