/* The page: what is looked at, and what changes it. */

const state = {
  task: null, tree: null, leaf: null, end: 0, pointed: null, whole: new Set(), all: false,
  quantity: "logprob", query: "", hits: new Set(), searching: 0,
};
const tip = make("div", { class: "tip" });
const parts = {};

function view() {
  return { ...state, quantity: QUANTITIES[state.quantity], width: Math.max(560, (parts.drawing ? parts.drawing.clientWidth : 900) - 2) };
}

const actions = {
  leaf(number) {
    state.leaf = number;
    state.end = state.tree.leaves[number].node;
    state.pointed = null;
    showTree();
  },
  /* Go to a node: of the sequence that is looked at, else of another one through it. */
  point(node) {
    const tree = state.tree;
    if (!pathTo(tree, state.end).includes(node)) {
      state.end = endBelow(tree, node);
      state.leaf = tree.leavesAt[state.end].length ? tree.leavesAt[state.end][0] : null;
    }
    state.pointed = node;
    showTree();
    document.getElementById(`node-${node}`)?.scrollIntoView({ block: "nearest", behavior: "smooth" });
  },
  whole(node) {
    state.whole.add(node);
    showTree();
  },
};

function build() {
  document.body.append(
    make("header", { class: "top" },
      make("button", { class: "open-list", onclick: () => document.body.classList.toggle("list-open") }, "Tasks"),
      make("h1", {}, DATA.title), parts.facts = make("span", { class: "facts" }),
      parts.live = make("span", { class: "live", hidden: DATA.live ? null : "" }, "live"),
      make("span", { class: "grow" }),
      parts.search = make("input", { type: "search", placeholder: "Search all text ( / )", "aria-label": "search all text", oninput: searchSoon }),
      parts.found = make("span", { class: "found", role: "status" }),
      make("button", { "aria-label": "next match", title: "next match (n)", onclick: nextHit }, "\u2193"),
      make("button", { "aria-label": "light or dark", title: "light or dark", onclick: otherTheme }, "\u25d0")),
    parts.note = make("div", { class: "note", hidden: "" }),
    make("main", {}, parts.tasks = make("aside", { "aria-label": "tasks" }), parts.tree = make("section", { class: "tree" })),
    tip);
  document.addEventListener("keydown", pressed);
  document.addEventListener("mouseover", pointedAt);
  addEventListener("hashchange", followHash);
  let resized = 0;
  addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(showTree, 150); });
}

function showFacts() {
  const trees = DATA.trees, tokens = trees.reduce((sum, task) => sum + task.tokens, 0);
  const versions = extent(trees.flatMap((task) => task.versions || []));
  parts.facts.textContent = [
    count(trees.length, "tree"), count(tokens, "token"), trees.length ? `versions ${versionsText(versions)}` : "", DATA.model,
  ].filter(Boolean).join(" \u00b7 ");
  const notes = [DATA.left_out, DATA.has_text ? "" : "the tokenizer isn't known, so token ids stand for text"].filter(Boolean);
  parts.note.textContent = notes.join("; ");
  parts.note.hidden = !notes.length;
}

function showTasks() {
  const tasks = listed(), rows = parts.tasks.querySelector(".rows"), top = rows ? rows.scrollTop : 0;
  const table = make("div", { class: "rows" }, tasks.length ? taskTable(tasks, state.task, open, showTasks) : make("p", { class: "nothing" }, DATA.trees.length ? "No tree is like that." : "No trees yet."));
  parts.tasks.replaceChildren(...[overRun(state.task, open), filters(showTasks), table].filter(Boolean));
  table.scrollTop = top;
}

async function open(task, wanted = {}) {
  state.task = task;
  const tree = await treeOf(task);
  if (state.task !== task) return;
  const best = tree.leaves.map((leaf, number) => number).filter((number) => tree.leaves[number].cause === "")
    .reduce((a, b) => (a === null || tree.leaves[b].return > tree.leaves[a].return ? b : a), null) ?? 0;
  Object.assign(state, { tree, leaf: wanted.leaf < tree.leaves.length ? wanted.leaf : best, pointed: null, whole: new Set(), all: false });
  state.end = tree.leaves[state.leaf].node;
  state.hits = new Set(list.hits?.get(task)?.nodes || []);
  document.body.classList.remove("list-open");
  showTasks();
  parts.tasks.querySelector("tr.chosen")?.scrollIntoView({ block: "nearest" });
  showTree();
  if (wanted.node in tree.parents) actions.point(wanted.node);
}

function showTree() {
  const { task, tree } = state;
  if (!tree) return;
  const place = new URLSearchParams({ tree: task.number, ...(state.leaf === null ? { node: state.end } : { leaf: state.leaf }), colour: state.quantity });
  history.replaceState(null, "", `#${place}`);
  const old = parts.drawing, kept = old && parts.drawn === tree ? [old.scrollLeft, old.scrollTop] : [0, 0];
  const top = parts.drawn === tree ? parts.tree.scrollTop : 0;
  parts.drawing = make("div", { class: "drawing" });
  const holder = make("div", { class: "card" }, parts.drawing);
  parts.tree.replaceChildren(treeHead(task, tree), notesOf(tree), controls(tree), holder);
  const { drawing, left, place: where } = drawTree(tree, view(), actions);
  parts.drawing.append(drawing);
  if (left) holder.append(make("div", { class: "legend" }, `${count(left, "more row")} of this tree.`, make("button", { onclick: () => { state.all = true; showTree(); } }, "draw all")));
  holder.append(legend(tree));
  parts.tree.append(transcript(tree, view(), actions));
  [parts.drawing.scrollLeft, parts.drawing.scrollTop] = kept;
  parts.tree.scrollTop = top;
  const row = where.y(state.end), box = parts.drawing;
  if (row < box.scrollTop + ROW || row > box.scrollTop + box.clientHeight - ROW) box.scrollTop = row - box.clientHeight / 2;
  parts.drawn = tree;
}

function treeHead(task, tree) {
  const shown = listed(), at = shown.indexOf(task), go = (by) => open(shown[(at + by + shown.length) % shown.length] || task);
  const value = meanReturn(task), broken = brokenOf(task);
  return make("div", { class: "tree-head" },
    make("div", {}, make("h2", {}, task.task), make("div", { class: "facts" }, [
      task.env, `level ${task.level}`, `tree ${task.number}`, `${count(tree.leaves.length, "sequence")}${broken ? `, ${broken} broken` : ""}`, count(task.tokens, "token"),
      `mean return ${figure(value)}`, `policy version ${versionsText(task.versions)}`, task.purpose === "train" ? "" : task.purpose, task.actor,
      task.trained ? "" : "left out of training (equal returns)",
    ].filter(Boolean).join(" \u00b7 "))),
    make("div", { class: "moves" },
      make("button", { title: "previous tree (k)", onclick: () => go(-1) }, "\u2039 previous"), make("button", { title: "next tree (j)", onclick: () => go(1) }, "next \u203a")));
}

function notesOf(tree) {
  const notes = Object.entries(tree.info);
  if (!notes.length) return "";
  return make("details", { class: "info" }, make("summary", {}, "Notes of the actor"),
    make("dl", { class: "card" }, ...notes.flatMap(([name, note]) => [make("dt", {}, name), make("dd", {}, note)])));
}

function controls(tree) {
  const select = make("select", { onchange: () => { state.quantity = select.value; showTree(); } },
    ...Object.entries(QUANTITIES).map(([name, one]) => make("option", { value: name, selected: name === state.quantity ? "" : null, disabled: one.missing ? "" : null }, one.label)));
  const quantity = QUANTITIES[state.quantity], ends = quantity.ends(tree.range), line = make("div", { class: "controls" }, make("label", {}, "Colour by", select));
  if (ends.length && ends[0][1] !== ends[1][1]) {
    const [low, high] = ends.map((end) => end[1]), bar = make("i", {});
    const stops = Array.from({ length: 9 }, (_, i) => quantity.colour(low + (high - low) * i / 8, tree.range));
    bar.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
    line.append(make("span", { class: "scale" }, ends[0][0], bar, ends[1][0]));
  } else if (ends.length) line.append(make("span", { class: "scale" }, "all the same here"));
  if (state.quantity === "advantage") line.append(make("span", { class: "soft" }, `${DATA.advantage}; of a token that several sequences share, their mean`));
  return line;
}

/* Search: names at once, then the text of every tree. */
let typing = 0;
function searchSoon() {
  clearTimeout(typing);
  typing = setTimeout(search, 250);
}

async function search() {
  const query = parts.search.value.trim().toLowerCase(), turnOfIts = ++state.searching;
  Object.assign(list, { query: query.length > 1 ? query : "", hits: null });
  state.query = list.query;
  let total = 0, done = 0;
  if (list.query) {
    list.hits = new Map();
    for (const task of [...DATA.trees]) {
      const texts = await textsOf(task);
      if (state.searching !== turnOfIts) return;
      const nodes = [];
      let matches = 0;
      texts.forEach((text, node) => {
        const here = occurrences(text, query).length;
        if (here) { nodes.push(node); matches += here; }
      });
      if (matches) list.hits.set(task, { total: matches, nodes });
      total += matches;
      if (++done % 40 === 0) parts.found.textContent = `${done} of ${DATA.trees.length} \u2026`;
    }
  }
  parts.found.textContent = list.query ? `${count(total, "match")} in ${count(list.hits.size, "tree")}` : "";
  state.hits = new Set(list.hits?.get(state.task)?.nodes || []);
  showTasks();
  if (list.query && !state.hits.size && listed().length) await open(listed()[0]);
  if (state.hits.size) nextHit(); else showTree();
}

function nextHit() {
  const nodes = [...state.hits].sort((a, b) => a - b);
  if (!nodes.length) return;
  actions.point(nodes.find((node) => state.pointed === null || node > state.pointed) ?? nodes[0]);
  document.querySelector(`#node-${state.pointed} mark, #node-${state.pointed} .found-here`)?.scrollIntoView({ block: "center" });
}

function otherTheme() {
  const root = document.documentElement, dark = root.style.colorScheme ? root.style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.style.colorScheme = dark ? "light" : "dark";
}

function pressed(event) {
  if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || !state.tree) return;
  const shown = listed(), at = shown.indexOf(state.task), leaves = state.tree.leaves.length, leaf = state.leaf ?? 0;
  const keys = {
    "/": () => parts.search.focus(), n: nextHit,
    j: () => open(shown[Math.min(shown.length - 1, at + 1)] || state.task), k: () => open(shown[Math.max(0, at - 1)] || state.task),
    ArrowRight: () => actions.leaf((leaf + 1) % leaves), ArrowLeft: () => actions.leaf((leaf + leaves - 1) % leaves),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}

function pointedAt(event) {
  const token = event.target.closest?.("[data-token]"), node = event.target.closest?.("[data-node]");
  tip.style.display = state.tree && (token || node) ? "block" : "none";
  if (tip.style.display === "none") return;
  tip.replaceChildren(...(token ? tokenTip(state.tree, Number(token.dataset.token)) : nodeTip(state.tree, Number(node.dataset.node))));
  const box = (token || node).getBoundingClientRect(), own = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(innerWidth - own.width - 6, event.clientX - 20))}px`;
  tip.style.top = `${box.bottom + own.height + 10 < innerHeight ? box.bottom + 8 : Math.max(6, box.top - own.height - 8)}px`;
}

function asked() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (/^\d{1,9}$/.test(fields.get(name) || "") ? Number(fields.get(name)) : undefined);
  return {
    task: DATA.trees.find((task) => task.number === number("tree")), leaf: number("leaf"), node: number("node"),
    colour: fields.get("colour") || "", find: fields.get("find") || "",
  };
}

/* The place in the page's address: a tree, a sequence or node of it, a quantity, a text to find. */
async function followHash() {
  const { task, leaf, node, colour, find } = asked();
  if (Object.hasOwn(QUANTITIES, colour) && !QUANTITIES[colour].missing) state.quantity = colour;
  const wanted = task || state.task || DATA.trees[DATA.trees.length - 1];
  if (wanted) await open(wanted, { leaf, node });
  if (find) {
    parts.search.value = find;
    await search();
  }
}

/* Of a run that goes on: what came since the last tree that is here. */
async function follow() {
  let more = false;
  try {
    const reply = await fetch(`trees?after=${DATA.after}`, { cache: "no-store" });
    if (!reply.ok) throw new Error(String(reply.status));
    const came = await reply.json();
    DATA.after = came.after;
    more = came.more;
    DATA.left_out = came.left_out;
    parts.live.className = came.problem ? "live gone" : "live";
    parts.live.textContent = came.problem || "live";
    if (came.trees.length) {
      DATA.trees = [...DATA.trees, ...came.trees].slice(-came.most);
      showFacts();
      if (state.task) showTasks(); else open(DATA.trees[DATA.trees.length - 1]);
    }
  } catch (error) {
    parts.live.className = "live gone";
    parts.live.textContent = "the run is not served any more";
  }
  setTimeout(follow, more ? 0 : 2000);
}

build();
showFacts();
showTasks();
followHash();
if (DATA.live) follow();
