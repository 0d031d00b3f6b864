/* One sequence, from the root to where it ends, as it was read and written. */

const SHORT_HEAD = 500, SHORT_TAIL = 900, MOST_SPANS = 3000;

function transcript(tree, view, actions) {
  const path = pathTo(tree, view.end);
  return make("div", { class: "transcript" }, sequenceHead(tree, view, actions), ...path.map((node) => turn(tree, node, view, actions)));
}

function sequenceHead(tree, view, actions) {
  const leaf = view.leaf === null ? null : tree.leaves[view.leaf];
  const step = (by, label) => make("button", { "aria-label": label, onclick: () => actions.leaf((view.leaf + by + tree.leaves.length) % tree.leaves.length) }, by < 0 ? "\u2039" : "\u203a");
  if (leaf === null) {
    return make("h3", {}, "Side branch", make("span", { class: "soft" }, `ends with node ${view.end}, through which no sequence goes: it is recorded, and not trained on`),
      make("button", { onclick: () => actions.leaf(0) }, "first sequence"));
  }
  const how = leaf.cause ? make("span", { class: "warn" }, `broken: ${leaf.cause}`) : make("span", { class: "soft" }, leaf.terminated ? "terminated" : "truncated");
  return make("h3", {}, `Sequence ${view.leaf + 1} of ${tree.leaves.length}`,
    tree.leaves.length > 1 ? make("span", {}, step(-1, "previous sequence"), " ", step(1, "next sequence")) : null,
    leaf.cause ? null : make("span", { class: `number ${verdict(leaf.return)}` }, `return ${figure(leaf.return)}`),
    leaf.cause || leaf.advantage === null ? null : make("span", { class: "number soft" }, `advantage ${signed(leaf.advantage)}`),
    how, leaf.group === null ? null : make("span", { class: "soft" }, `comparison group ${leaf.group}`));
}

function turn(tree, node, view, actions) {
  const says = make("div", { class: "says" }), whole = view.whole.has(node);
  const query = view.hits.has(node) ? view.query : "";
  const card = make("article", { class: `card turn ${tree.sampled[node] ? "by-policy" : ""} ${node === view.pointed ? "pointed" : ""}`, id: `node-${node}` },
    turnFacts(tree, node, view, actions), says);
  const left = tree.sampled[node] ? sampledText(tree, node, says, view.quantity, query, whole) : contextText(nodeText(tree, node), says, query, whole);
  if (left) card.append(make("button", { class: "more", onclick: () => actions.whole(node) }, `show all (${left})`));
  return card;
}

function turnFacts(tree, node, view, actions) {
  const facts = nodeFacts(tree, node), add = (...parts) => make("span", {}, ...parts);
  const line = make("div", { class: "facts" }, make("b", {}, tree.sampled[node] ? "policy" : "context"), add(`node ${node}`), add(count(facts.tokens, "token")));
  if (tree.sampled[node]) {
    const known = facts.unknownEntropies ? ` of ${facts.tokens - facts.unknownEntropies}` : "";
    line.append(
      add(`version ${versionsText(facts.versions)}`),
      add(`log p ${figure(facts.logprob, 1)} (${figure(facts.logprob / facts.tokens)} a token)`),
      add(facts.entropy === null ? "entropy unknown" : `entropy ${figure(facts.entropy)}${known}`),
      facts.advantage === null ? "" : make("span", { class: verdict(facts.advantage) }, `advantage ${signed(facts.advantage)}`),
      facts.masked ? add(`${facts.masked} under a mask`) : "");
  }
  if (tree.rewards[node]) line.append(make("span", { class: verdict(tree.rewards[node]) }, `reward ${signed(tree.rewards[node])}`));
  if (!tree.reached[node]) line.append(add("side branch"));
  line.append(...siblingChips(tree, node, actions), ...edgeChips(tree, node, actions));
  return line;
}

function siblingChips(tree, node, actions) {
  const parent = tree.parents[node], siblings = parent < 0 ? [] : tree.children[parent], cause = tree.causes[node];
  if (siblings.length < 2) return cause && cause !== "rollout" ? [make("span", { class: `chip ${cause}`, title: CAUSES[cause] }, cause.replace("_", " "))] : [];
  const at = siblings.indexOf(node), go = (by) => () => actions.point(siblings[(at + by + siblings.length) % siblings.length]);
  return [make("span", { class: `chip ${cause}`, title: CAUSES[cause] || "goes on where others part" },
    make("button", { "aria-label": "previous branch", onclick: go(-1) }, "\u2039"),
    `${cause ? cause.replace("_", " ") + ", " : ""}branch ${at + 1} of ${siblings.length}`,
    make("button", { "aria-label": "next branch", onclick: go(1) }, "\u203a"))];
}

function edgeChips(tree, node, actions) {
  const chip = (kind, way, other) => make("button", { class: `chip ${kind}`, onclick: () => actions.point(other) }, `${EDGES[kind][way]} node ${other} ${way ? "\u2191" : "\u2193"}`);
  return tree.edges.flatMap(([source, target, kind]) =>
    [...(source === node ? [chip(kind, 0, target)] : []), ...(target === node ? [chip(kind, 1, source)] : [])]);
}

/* Text with what was searched for marked. Returns what is left out. */
function contextText(text, says, query, whole) {
  const short = !whole && !query && text.length > SHORT_HEAD + SHORT_TAIL + 200;
  if (short) {
    says.append(text.slice(0, SHORT_HEAD), make("span", { class: "break" }, "\n\u22ee\n"), text.slice(-SHORT_TAIL));
    return `${text.length.toLocaleString("en")} characters`;
  }
  let done = 0;
  for (const at of occurrences(text.toLowerCase(), query)) {
    says.append(text.slice(done, at), make("mark", {}, text.slice(at, at + query.length)));
    done = at + query.length;
  }
  says.append(text.slice(done));
  return "";
}

function sampledText(tree, node, says, quantity, query, whole) {
  const first = tree.offsets[node], stop = tree.offsets[node + 1], last = whole ? stop : Math.min(stop, first + MOST_SPANS);
  const found = occurrences(query ? nodeText(tree, node).toLowerCase() : "", query);
  let at = 0, next = 0;
  for (let token = first; token < last; token++) {
    const text = tree.texts[token], span = make("span", { "data-token": token });
    while (next < found.length && found[next] + query.length <= at) next++;
    if (next < found.length && found[next] < at + text.length) span.className = "found-here";
    else {
      const value = quantity.value(tree, token, node);
      if (value !== null) span.style.backgroundColor = quantity.colour(value, tree.range);
    }
    text.split("\n").forEach((line, i) => {
      if (i) span.append(make("i", { class: "break" }, "\u23ce"), "\n");
      span.append(line);
    });
    if (!text) span.append(make("i", { class: "break" }, "\u00b7"));
    at += text.length;
    says.append(span);
  }
  return last < stop ? `${(stop - last).toLocaleString("en")} more tokens` : "";
}

function tokenTip(tree, token) {
  let node = tree.parents.length - 1;
  while (tree.offsets[node] > token) node--;
  const logprob = tree.logprobs[token], rows = [
    ["token", `${tree.ids[token]} (${token - tree.offsets[node] + 1} of ${tree.offsets[node + 1] - tree.offsets[node]})`],
    ["log-probability", `${figure(logprob, 3)} (p ${figure(Math.exp(logprob), 3)})`],
    ["entropy", tree.entropies[token] === null ? "unknown" : `${figure(tree.entropies[token], 3)} nats`],
    ["advantage", tree.advantages[token] === null ? "none" : signed(tree.advantages[token], 3)],
    ["policy version", String(tree.versions[token])],
    ["importance ratio", "not recorded"],
  ];
  if (tree.allowed && tree.allowed[token] !== null) rows.push(["mask", `${count(tree.allowed[token], "token")} allowed`]);
  return tipOf(JSON.stringify(tree.texts[token]), rows);
}

function nodeTip(tree, node) {
  const facts = nodeFacts(tree, node), text = nodeText(tree, node).trim();
  const rows = [["node", `${node}, ${tree.sampled[node] ? "policy" : "context"}, ${count(facts.tokens, "token")}`]];
  if (tree.causes[node]) rows.push(["begins", CAUSES[tree.causes[node]]]);
  if (tree.sampled[node]) rows.push(["version", versionsText(facts.versions)], ["log-probability", figure(facts.logprob, 2)],
    ["entropy", facts.entropy === null ? "unknown" : figure(facts.entropy)], ["advantage", signed(facts.advantage)]);
  if (tree.rewards[node]) rows.push(["reward", signed(tree.rewards[node])]);
  if (tree.through[node] !== null) rows.push(["mean return", figure(tree.through[node])]);
  const shown = tree.sampled[node] ? text.slice(0, 180) : text.slice(-180);
  return tipOf(shown.length < text.length ? (tree.sampled[node] ? `${shown}\u2026` : `\u2026${shown}`) : shown, rows);
}

function tipOf(text, rows) {
  return [make("b", {}, text), make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]))];
}
