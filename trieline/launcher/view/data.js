/* The trees: unpacked when they are looked at, with what follows from their columns. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const KEPT = 6;
const unpacked = new Map();

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function treeOf(task) {
  if (!unpacked.has(task)) {
    const tree = derived(await unpack(task.packed));
    while (unpacked.size >= KEPT) unpacked.delete(unpacked.keys().next().value);
    unpacked.set(task, tree);
  }
  return unpacked.get(task);
}

function derived(tree) {
  const nodes = tree.parents.length;
  tree.children = tree.parents.map(() => []);
  tree.parents.forEach((parent, node) => { if (parent >= 0) tree.children[parent].push(node); });
  tree.leavesAt = tree.parents.map(() => []);
  tree.leaves.forEach((leaf, number) => tree.leavesAt[leaf.node].push(number));
  tree.byPolicy = new Uint8Array(tree.ids.length);
  for (let node = 0; node < nodes; node++) {
    if (tree.sampled[node]) tree.byPolicy.fill(1, tree.offsets[node], tree.offsets[node + 1]);
  }
  // Parents come before their children, so that one pass from the end gathers what is below each node.
  const sum = new Float64Array(nodes), scored = new Float64Array(nodes);
  tree.reached = new Uint8Array(nodes);
  for (const leaf of tree.leaves) {
    tree.reached[leaf.node] = 1;
    if (leaf.cause === "") { sum[leaf.node] += leaf.return; scored[leaf.node] += 1; }
  }
  for (let node = nodes - 1; node > 0; node--) {
    const parent = tree.parents[node];
    sum[parent] += sum[node];
    scored[parent] += scored[node];
    tree.reached[parent] |= tree.reached[node];
  }
  tree.through = Array.from(sum, (total, node) => (scored[node] ? total / scored[node] : null));
  tree.range = rangesOf(tree);
  return tree;
}

function rangesOf(tree) {
  const most = (values) => values.reduce((high, value) => Math.max(high, Math.abs(value || 0)), 0);
  const returns = tree.leaves.filter((leaf) => leaf.cause === "").map((leaf) => leaf.return);
  return {
    advantage: most(tree.advantages),
    reward: most(tree.rewards),
    returns: returns.length ? extent([...returns, 0]) : [0, 1],
    versions: extent(DATA.trees.flatMap((task) => task.versions || [])),
  };
}

function extent(values) {
  return values.length
    ? values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [values[0], values[0]])
    : [0, 0];
}

function pathTo(tree, node) {
  const path = [];
  for (; node >= 0; node = tree.parents[node]) path.push(node);
  return path.reverse();
}

/* The last node of the branch through `node` that is looked at: of a leaf, or where a side branch ends. */
function endBelow(tree, node) {
  while (!tree.leavesAt[node].length && tree.children[node].length) {
    node = tree.children[node].find((child) => tree.reached[child]) ?? tree.children[node][0];
  }
  return node;
}

function nodeText(tree, node) {
  return tree.texts.slice(tree.offsets[node], tree.offsets[node + 1]).join("");
}

function nodeFacts(tree, node) {
  const first = tree.offsets[node], stop = tree.offsets[node + 1];
  const entropies = tree.entropies.slice(first, stop);
  return {
    tokens: stop - first,
    logprob: tree.logprobs.slice(first, stop).reduce((sum, value) => sum + value, 0),
    entropy: mean(entropies),
    unknownEntropies: entropies.filter((value) => value === null).length,
    advantage: mean(tree.advantages.slice(first, stop)),
    versions: extent(tree.versions.slice(first, stop)),
    masked: tree.allowed ? tree.allowed.slice(first, stop).filter((size) => size !== null).length : 0,
  };
}

/* Search: the lower-case text of each node of each tree, made once. */
async function textsOf(task) {
  if (!task.searched) {
    const tree = unpacked.get(task) || await unpack(task.packed);
    task.searched = tree.parents.map((_, node) => nodeText(tree, node).toLowerCase());
  }
  return task.searched;
}

function occurrences(text, query) {
  const found = [];
  if (query) for (let at = text.indexOf(query); at >= 0; at = text.indexOf(query, at + query.length)) found.push(at);
  return found;
}
