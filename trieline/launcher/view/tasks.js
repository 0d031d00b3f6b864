/* The list of tasks: sorted, filtered, and drawn over the run. */

const SVG = "http://www.w3.org/2000/svg";

/* All that stands in the page is made here: text is only ever text. */
function make(tag, fields = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function shape(tag, fields = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const meanReturn = (task) => mean(task.returns);
const brokenOf = (task) => task.returns.filter((value) => value === null).length;
const differ = (task) => new Set(task.returns.filter((value) => value !== null)).size > 1;

const COLUMNS = [
  ["#", (task) => task.number],
  ["task", (task) => `${task.env} ${task.task}`],
  ["level", (task) => task.level],
  ["return", (task) => meanReturn(task) ?? -Infinity],
  ["tokens", (task) => task.tokens],
  ["version", (task) => (task.versions ? task.versions[1] : -1)],
];

const OUTCOMES = {
  "all outcomes": () => true,
  "returns differ": differ,
  "returns are equal": (task) => !differ(task),
  "some are broken": (task) => brokenOf(task) > 0,
  "left out of training": (task) => !task.trained,
  "with other edges": (task) => task.edges > 0,
};

const list = { sort: 0, down: false, env: "", level: "", outcome: "all outcomes", query: "", hits: null };

function listed() {
  const wanted = DATA.trees.filter((task) =>
    (!list.env || task.env === list.env) &&
    (!list.level || String(task.level) === list.level) &&
    OUTCOMES[list.outcome](task) &&
    (!list.query || named(task) || (list.hits && list.hits.has(task))));
  const key = COLUMNS[list.sort][1], way = list.down ? -1 : 1;
  return wanted.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    return (x < y ? -way : x > y ? way : a.number - b.number);
  });
}

function named(task) {
  return `${task.env} ${task.task}`.toLowerCase().includes(list.query);
}

function returnsRange() {
  return extent([0, ...DATA.trees.flatMap((task) => task.returns.filter((value) => value !== null))]);
}

function versionsText(versions) {
  if (!versions) return "\u2013";
  return versions[0] === versions[1] ? String(versions[0]) : `${versions[0]}\u2013${versions[1]}`;
}

function taskRow(task, chosen, open) {
  const [low, high] = returnsRange(), value = meanReturn(task), found = list.hits && list.hits.get(task);
  const dots = task.returns.length > 1 && task.returns.slice(0, 48).map((one) => {
    const dot = make("i", { class: one === null ? "broken" : "" });
    if (one !== null) dot.style.background = outcome(one, low, high);
    return dot;
  });
  return make("tr", { class: task === chosen ? "chosen" : "", onclick: () => open(task), "data-number": task.number },
    make("td", { class: "figure soft" }, String(task.number)),
    make("td", {},
      make("span", { class: "task", title: task.task }, task.task),
      make("span", { class: "env", title: task.env }, task.env.replace(/^trieline\//, "")),
      found ? make("span", { class: "hits" }, count(found.total, "match")) : null),
    make("td", { class: "figure" }, String(task.level)),
    make("td", { class: "figure" },
      value === null ? make("span", { class: "warn" }, "broken") : figure(value),
      dots ? make("span", { class: "dots", title: `${count(task.returns.length, "sequence")}, ${brokenOf(task)} broken` }, ...dots) : null),
    make("td", { class: "figure" }, task.tokens.toLocaleString("en")),
    make("td", { class: "figure" }, versionsText(task.versions)));
}

function choice(label, options, chosen, changed) {
  const select = make("select", { "aria-label": label, onchange: () => changed(select.value) },
    ...options.map(([value, text]) => make("option", { value, selected: value === chosen ? "" : null }, text)));
  return select;
}

function filters(changed) {
  const envs = [...new Set(DATA.trees.map((task) => task.env))].sort();
  const levels = [...new Set(DATA.trees.map((task) => task.level))].sort((a, b) => a - b);
  const set = (name) => (value) => { list[name] = value; changed(); };
  return make("div", { class: "filters" },
    envs.length > 1 ? choice("environment", [["", "all environments"], ...envs.map((env) => [env, env])], list.env, set("env")) : null,
    levels.length > 1 ? choice("level", [["", "all levels"], ...levels.map((level) => [String(level), `level ${level}`])], list.level, set("level")) : null,
    choice("outcome", Object.keys(OUTCOMES).map((name) => [name, name]), list.outcome, set("outcome")));
}

function taskTable(tasks, chosen, open, changed) {
  const heads = COLUMNS.map(([label], i) => make("th", { "aria-sort": list.sort === i ? (list.down ? "descending" : "ascending") : null },
    make("button", { onclick: () => { list.down = list.sort === i && !list.down; list.sort = i; changed(); } },
      label + (list.sort === i ? (list.down ? " \u25be" : " \u25b4") : ""))));
  return make("table", {},
    make("thead", {}, make("tr", {}, ...heads)),
    make("tbody", {}, ...tasks.map((task) => taskRow(task, chosen, open))));
}

/* Return by tree over the whole run: a dot each, and their running mean. */
function overRun(chosen, open) {
  const tasks = DATA.trees.filter((task) => meanReturn(task) !== null);
  if (tasks.length < 3) return "";
  const width = 400, height = 76, edge = 6, [low, high] = returnsRange();
  const x = (i) => edge + (width - 2 * edge) * (i / (tasks.length - 1));
  const y = (value) => height - edge - (height - 2 * edge) * between(value, low, high === low ? low + 1 : high);
  const span = Math.max(3, Math.round(tasks.length / 12));
  const line = tasks.map((_, i) => {
    const near = tasks.slice(Math.max(0, i - span), i + span + 1);
    return `${x(i).toFixed(1)},${y(mean(near.map(meanReturn))).toFixed(1)}`;
  });
  const drawing = shape("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img", "aria-label": "mean return of each tree" },
    ...tasks.map((task, i) => shape("circle", {
      cx: x(i), cy: y(meanReturn(task)), r: task === chosen ? 5 : 2.4, fill: task === chosen ? "var(--accent)" : "var(--faint)",
      "fill-opacity": task === chosen ? 1 : 0.55,
    })),
    shape("polyline", { points: line.join(" "), fill: "none", stroke: "var(--accent)", "stroke-width": 2, "stroke-linejoin": "round" }));
  drawing.addEventListener("click", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width * width - edge) / (width - 2 * edge) * (tasks.length - 1);
    open(tasks[Math.max(0, Math.min(tasks.length - 1, Math.round(at)))]);
  });
  drawing.style.cursor = "pointer";
  return make("figure", { class: "chart" },
    make("figcaption", {}, make("span", {}, "mean return by tree"), make("span", { class: "number" }, `${figure(low)} to ${figure(high)}`)),
    drawing);
}
