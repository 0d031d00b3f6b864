"use strict";

/* Numbers as people read them, and the colours that stand for them. */

const MINUS = "\u2212";

function figure(value, digits = 2) {
  return value === null || value === undefined ? "\u2013" : value.toFixed(digits).replace("-", MINUS);
}

function signed(value, digits = 2) {
  return value === null || value === undefined ? "\u2013" : (value > 0 ? "+" : "") + figure(value, digits);
}

function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : noun.endsWith("ch") ? "es" : "s"}`;
}

function mean(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function verdict(value) {
  return value === null ? "" : value > 0 ? "good" : value < 0 ? "bad" : "";
}

const UNSURE = [234, 88, 12], OPEN = [37, 99, 235], GOOD = [13, 148, 116], BAD = [220, 68, 45];
const MIDDLE = [128, 136, 150];
const AGES = [[68, 57, 160], [46, 110, 180], [31, 150, 139], [110, 190, 80], [240, 190, 40]];

function paint(colour, strength) {
  return `rgb(${colour.map(Math.round).join(" ")} / ${Math.max(0, Math.min(1, strength)).toFixed(3)})`;
}

function diverging(value, most) {
  return paint(value >= 0 ? GOOD : BAD, most > 0 ? 0.85 * Math.sqrt(Math.abs(value) / most) : 0);
}

function between(value, low, high) {
  return high > low ? Math.max(0, Math.min(1, (value - low) / (high - low))) : 1;
}

function outcome(value, low, high) {
  if (high <= low) return paint(MIDDLE, 0.5);
  const at = between(value, low, high);
  return paint(BAD.map((part, i) => part + at * (GOOD[i] - part)), 0.8);
}

function age(version, low, high) {
  const at = between(version, low, high) * (AGES.length - 1), i = Math.min(Math.floor(at), AGES.length - 2);
  return paint(AGES[i].map((part, k) => part + (at - i) * (AGES[i + 1][k] - part)), 0.62);
}

/* What the tokens of a tree can be coloured by. `value(tree, token, node)` is null where there is none. */
const QUANTITIES = {
  logprob: {
    label: "log-probability",
    value: (tree, token) => (tree.byPolicy[token] ? tree.logprobs[token] : null),
    colour: (value) => paint(UNSURE, 0.9 * (1 - Math.exp(value))),
    ends: () => [["p = 1", 0], ["p = 0", -8]],
  },
  entropy: {
    label: "entropy",
    value: (tree, token) => (tree.byPolicy[token] ? tree.entropies[token] : null),
    colour: (value) => paint(OPEN, 0.85 * Math.sqrt(value / 3)),
    ends: () => [["0 nats", 0], ["3 nats", 3]],
  },
  advantage: {
    label: "advantage",
    value: (tree, token) => tree.advantages[token],
    colour: (value, range) => diverging(value, range.advantage),
    ends: (range) => [[signed(-range.advantage), -range.advantage], [signed(range.advantage), range.advantage]],
  },
  version: {
    label: "policy version",
    value: (tree, token) => (tree.byPolicy[token] ? tree.versions[token] : null),
    colour: (value, range) => age(value, ...range.versions),
    ends: (range) => range.versions.map((version) => [`version ${version}`, version]),
  },
  ratio: { label: "importance ratio (not recorded)", missing: true },
  reward: {
    label: "reward",
    value: (tree, token, node) => tree.rewards[node] || null,
    colour: (value, range) => diverging(value, range.reward),
    ends: (range) => [[signed(-range.reward), -range.reward], [signed(range.reward), range.reward]],
  },
  returns: {
    label: "mean return through it",
    value: (tree, token, node) => tree.through[node],
    colour: (value, range) => outcome(value, ...range.returns),
    ends: (range) => range.returns.map((value) => [figure(value), value]),
  },
  none: { label: "nothing", value: () => null, colour: () => "", ends: () => [] },
};

const CAUSES = {
  rollout: "another rollout of the task",
  branch: "a fork that the branching policy asked for",
  compaction: "the context was compacted",
  subagent: "a sub-agent's conversation",
  side: "a request beside the task, a title for example",
  token_mismatch: "what came back did not continue the sampled tokens",
};

const EDGES = {
  continues: ["continues in", "continued from"],
  returns: ["returns to", "answer of"],
};
