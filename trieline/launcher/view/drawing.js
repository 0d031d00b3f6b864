/* One tree, drawn: a row for each branch, the length of a node by the root of its tokens. */

const ROW = 27, TOP = 22, LEFT = 14, LABEL = 190, STRIP = 3, JOIN = 15, GAP = 3;
const MOST_ROWS = 400;

function layout(tree, width) {
  const nodes = tree.parents.length;
  const row = new Int32Array(nodes), x = new Float64Array(nodes), wide = new Float64Array(nodes);
  const fixed = new Float64Array(nodes), grows = new Float64Array(nodes);
  let rows = 0, stretch = 22;
  const waiting = [0];
  while (waiting.length) {
    const node = waiting.pop(), parent = tree.parents[node], children = tree.children[node];
    const goesOn = parent >= 0 && tree.children[parent][0] === node;
    row[node] = goesOn ? row[parent] : rows++;
    fixed[node] = (parent < 0 ? 0 : fixed[parent] + (goesOn ? GAP : JOIN)) + (tree.sampled[node] ? 7 : 4);
    grows[node] = (parent < 0 ? 0 : grows[parent]) + Math.sqrt(tree.offsets[node + 1] - tree.offsets[node]);
    stretch = Math.min(stretch, (width - LABEL - LEFT - fixed[node]) / grows[node]);
    for (let i = children.length - 1; i >= 0; i--) waiting.push(children[i]);
  }
  stretch = Math.max(stretch, 0.7);
  let right = 0;
  for (let node = 0; node < nodes; node++) {
    const parent = tree.parents[node];
    wide[node] = (tree.sampled[node] ? 7 : 4) + stretch * Math.sqrt(tree.offsets[node + 1] - tree.offsets[node]);
    x[node] = parent < 0 ? LEFT : x[parent] + wide[parent] + (row[node] === row[parent] ? GAP : JOIN);
    right = Math.max(right, x[node] + wide[node]);
  }
  return { row, x, wide, rows, width: right + LABEL, y: (node) => TOP + row[node] * ROW };
}

function drawTree(tree, view, actions) {
  const place = layout(tree, view.width), most = view.all ? Infinity : MOST_ROWS;
  const shown = tree.parents.map((_, node) => node).filter((node) => place.row[node] < most);
  const onPath = new Set(pathTo(tree, view.end));
  const height = TOP + Math.min(place.rows, most) * ROW;
  const drawing = shape("svg", { width: Math.max(place.width, 100), height, role: "group", "aria-label": "the tree" }, markers());
  for (const node of shown) if (onPath.has(node)) {
    drawing.append(shape("rect", { class: "band", x: place.x[node] - GAP, y: place.y(node) - 11, width: place.wide[node] + 2 * GAP, height: 22, rx: 4 }));
  }
  for (const node of shown) if (tree.parents[node] >= 0) drawing.append(linkTo(tree, place, node, onPath));
  for (const node of shown) drawing.append(nodeShape(tree, place, node, view, actions));
  for (const [source, target, kind] of tree.edges) {
    if (place.row[source] < most && place.row[target] < most) drawing.append(edgeShape(place, source, target, kind, actions));
  }
  tree.leaves.forEach((leaf, number) => { if (place.row[leaf.node] < most) drawing.append(endShape(tree, place, number, view, actions)); });
  return { drawing, left: place.rows > most ? place.rows - most : 0, place };
}

function markers() {
  const arrow = (kind) => shape("marker", { id: `arrow-${kind}`, viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
    shape("path", { class: `arrow ${kind}`, d: "M0 0 L8 4 L0 8 z" }));
  const hatch = shape("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    shape("line", { class: "hatch", x1: 0, y1: 0, x2: 0, y2: 5 }));
  return shape("defs", {}, arrow("continues"), arrow("returns"), hatch);
}

function linkTo(tree, place, node, onPath) {
  const parent = tree.parents[node], from = place.x[parent] + place.wide[parent], to = place.x[node];
  const high = place.y(parent), low = place.y(node), cause = tree.causes[node];
  const path = high === low ? `M${from} ${low}H${to}` : `M${from + 1} ${high}h1V${low - 6}q0 6 6 6H${to}`;
  const group = shape("g", {}, shape("path", { d: path, class: `link ${cause} ${onPath.has(node) ? "on" : ""}` }));
  if (cause && cause !== "rollout") {
    group.append(shape("circle", { cx: high === low ? (from + to) / 2 : to - 4, cy: low, r: 4, class: `cause ${cause}` }, shape("title", {}, `${cause}: ${CAUSES[cause]}`)));
  }
  return group;
}

function nodeShape(tree, place, node, view, actions) {
  const x = place.x[node], y = place.y(node), wide = place.wide[node], tall = tree.sampled[node] ? 14 : 7;
  const group = shape("g", {
    class: `node ${tree.reached[node] ? "" : "aside"} ${view.hits.has(node) ? "hit" : ""}`,
    tabindex: 0, role: "button", "aria-label": `node ${node}`, "data-node": node,
    onclick: () => actions.point(node),
    onkeydown: (event) => { if (event.key === "Enter") actions.point(node); },
  });
  group.append(shape("rect", { class: tree.sampled[node] ? "policy" : "context", x, y: y - tall / 2, width: wide, height: tall, rx: 2 }));
  if (tree.reached[node] || view.quantity.value !== QUANTITIES.none.value) group.append(...strips(tree, node, view.quantity, x, y - tall / 2, wide, tall));
  group.append(shape("rect", { class: "outline", x: x - 1, y: y - tall / 2 - 1, width: wide + 2, height: tall + 2, rx: 3 }));
  const reward = tree.rewards[node];
  if (reward) {
    const at = x + wide - 1, up = y - tall / 2 - 6;
    group.append(shape("path", { class: `mark ${verdict(reward)}`, d: reward > 0 ? `M${at - 4} ${up + 4}h8l-4 -6z` : `M${at - 4} ${up - 2}h8l-4 6z` }, shape("title", {}, `reward ${signed(reward)}`)));
  }
  if (!tree.reached[node] && !tree.children[node].length) group.append(shape("text", { class: "side-name", x: x + wide + 8, y: y + 4 }, "side branch"));
  return group;
}

/* The quantity along a node's tokens, averaged over those that fall on the same few pixels. */
function strips(tree, node, quantity, x, y, wide, tall) {
  const first = tree.offsets[node], tokens = tree.offsets[node + 1] - first;
  const parts = Math.max(1, Math.min(tokens, Math.floor(wide / STRIP))), found = [];
  let run = null;
  for (let part = 0; part < parts; part++) {
    const from = first + Math.floor(part * tokens / parts), to = Math.max(from + 1, first + Math.floor((part + 1) * tokens / parts));
    const values = [];
    for (let token = from; token < to; token++) values.push(quantity.value(tree, token, node));
    const value = mean(values), fill = value === null ? "" : quantity.colour(value, tree.range);
    if (run && run.fill === fill) run.stop = part + 1;
    else found.push(run = { fill, start: part, stop: part + 1 });
  }
  return found.filter((one) => one.fill).map((one) =>
    shape("rect", { class: "strip", x: x + one.start * wide / parts, y, width: (one.stop - one.start) * wide / parts, height: tall, fill: one.fill }));
}

function edgeShape(place, source, target, kind, actions) {
  const x1 = place.x[source] + place.wide[source] - 3, y1 = place.y(source) + 8, x2 = place.x[target] + 3, y2 = place.y(target) - 9;
  const bend = Math.max(18, Math.min(60, Math.abs(y2 - y1) / 2));
  return shape("path", {
    class: `edge ${kind}`, d: `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`, "marker-end": `url(#arrow-${kind})`,
    onclick: () => actions.point(target),
  }, shape("title", {}, `node ${source} ${EDGES[kind][0]} node ${target}`));
}

function endShape(tree, place, number, view, actions) {
  const leaf = tree.leaves[number], node = leaf.node, inner = tree.children[node].length > 0;
  const x = place.x[node] + place.wide[node] + (inner ? 0 : 10), y = place.y(node) - (inner ? 9 : 0);
  const group = shape("g", { class: `end ${number === view.leaf ? "on" : ""}`, onclick: () => actions.leaf(number) });
  const how = leaf.cause ? `broken: ${leaf.cause}` : leaf.terminated ? "terminated" : "truncated";
  group.append(shape("title", {}, `sequence ${number}: ${how}, return ${figure(leaf.return)}`));
  if (leaf.cause) group.append(shape("path", { class: "mark bad", d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8` }));
  else group.append(shape("circle", { class: `mark ${leaf.terminated ? "" : "truncated"} ${verdict(leaf.return)}`, cx: x, cy: y, r: inner ? 3 : 4 }));
  // Of several sequences that end on one node, and where a row goes on, the marks alone.
  const several = tree.leavesAt[node];
  if (inner || several[0] !== number) return group;
  const text = shape("text", { x: x + 10, y: y + 4 });
  const say = (words, look) => text.append(shape("tspan", { class: look }, words));
  if (leaf.cause) say(`broken: ${leaf.cause}`, "warn");
  else {
    say(figure(leaf.return), verdict(leaf.return));
    if (leaf.advantage !== null) say(`  A ${signed(leaf.advantage)}`, "soft");
    if (leaf.group !== null) say(`  group ${leaf.group}`, "soft");
  }
  if (several.length > 1) say(`  \u00d7 ${several.length}`, "soft");
  group.append(text);
  return group;
}

function legend(tree) {
  const entries = [], icon = (...shapes) => shape("svg", { width: 26, height: 16 }, markers(), ...shapes);
  const add = (text, ...shapes) => entries.push(make("span", {}, icon(...shapes), text));
  add("policy", shape("rect", { class: "policy", x: 2, y: 2, width: 22, height: 12, rx: 2 }));
  add("context", shape("rect", { class: "context", x: 2, y: 5, width: 22, height: 6, rx: 2 }));
  for (const cause of ["branch", "compaction", "subagent", "side", "token_mismatch"]) {
    if (tree.causes.includes(cause)) add(cause.replace("_", " "), shape("path", { class: `link ${cause}`, d: "M2 8H24" }), shape("circle", { class: `cause ${cause}`, cx: 13, cy: 8, r: 4 }));
  }
  for (const kind of ["continues", "returns"]) {
    if (tree.edges.some((edge) => edge[2] === kind)) add(kind, shape("path", { class: `edge ${kind}`, d: "M2 8H19", "marker-end": `url(#arrow-${kind})` }));
  }
  if (tree.reached.includes(0)) add("side branch", shape("g", { class: "aside" }, shape("rect", { class: "policy", x: 2, y: 2, width: 22, height: 12, rx: 2 })));
  if (tree.rewards.some((reward) => reward)) add("reward", shape("path", { class: "mark good", d: "M9 11h8l-4 -6z" }));
  add("terminated", shape("circle", { class: "mark", cx: 13, cy: 8, r: 4 }));
  if (tree.leaves.some((leaf) => !leaf.terminated && !leaf.cause)) add("truncated", shape("circle", { class: "mark truncated", cx: 13, cy: 8, r: 4 }));
  if (tree.leaves.some((leaf) => leaf.cause)) add("broken", shape("path", { class: "mark bad", d: "M9 4l8 8m0 -8l-8 8" }));
  return make("div", { class: "legend" }, ...entries, make("span", {}, "A: advantage"), make("span", {}, "length \u221d \u221atokens"));
}
