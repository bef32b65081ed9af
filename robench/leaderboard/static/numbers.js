"use strict";
// Pure functions of outcomes, the same as robench/leaderboard/patterns.py; tests compare them with Python.

const Z = 1.9599639845400536; // of a 95 % interval, as statistics.NormalDist gives it

// The score interval of a share. Wilson 1927.
function wilson(successes, n) {
  if (n === 0) return [0, 1];
  const share = successes / n;
  const centre = (share + (Z * Z) / (2 * n)) / (1 + (Z * Z) / n);
  const half = (Z / (1 + (Z * Z) / n)) * Math.sqrt((share * (1 - share)) / n + (Z * Z) / (4 * n * n));
  return [successes ? Math.max(0, centre - half) : 0, successes < n ? Math.min(1, centre + half) : 1];
}

// The outcome under several threats: the worst of the letters at the chosen places.
function worst(pattern, chosen) {
  const letters = chosen.map((place) => pattern[place]);
  if (letters.includes("W")) return "W";
  if (letters.includes("B")) return "B";
  return letters.every((letter) => letter === "S") ? "S" : "O";
}

function correlation(one, other, both, n) {
  const scale = one * (n - one) * other * (n - other);
  if (!scale) return 1;
  const value = (n * both - one * other) / Math.sqrt(scale);
  return value < 0 ? (value * n * n) / (n * n + 1) : value;
}

// Numbers of examples by the set of threats, a bit each, that they withstand (S), or withstand or are open under (SO).
// These give union and average of every choice of threats, and are few: at most 2^threats, whatever the outcomes.
// `entries` are pairs of a pattern, a letter per threat, and a number.
function setsOf(entries) {
  const sets = { S: new Map(), SO: new Map() };
  for (const [pattern, count] of entries) {
    for (const letters of ["S", "SO"]) {
      let set = 0;
      for (let place = 0; place < pattern.length; place++) if (letters.includes(pattern[place])) set |= 1 << place;
      sets[letters].set(set, (sets[letters].get(set) ?? 0) + count);
    }
  }
  return sets;
}

// The sets as the page's data write them: "0 12 3 5" are 12 examples of the set 0 and 5 of the set 3.
function parseSets(text) {
  const numbers = text.split(" ").map(Number);
  const sets = new Map();
  for (let i = 0; i + 1 < numbers.length; i += 2) sets.set(numbers[i], numbers[i + 1]);
  return sets;
}

// What `recomputed` needs: the sets, and `held.S[i][j]`, the examples that stand under both i and j; likewise for SO.
function prepare({ S, SO }, threats) {
  const squares = (sets) => {
    const square = Array.from({ length: threats }, () => new Array(threats).fill(0));
    for (const [set, count] of sets) {
      for (let i = 0; i < threats; i++) {
        if (!((set >> i) & 1)) continue;
        for (let j = 0; j < threats; j++) square[i][j] += count * ((set >> j) & 1);
      }
    }
    return square;
  };
  const arrays = (sets) => ({ sets: new Uint32Array([...sets.keys()]), counts: new Uint32Array([...sets.values()]) });
  const stands = squares(S);
  const held = { S: stands, SO: SO === S ? stands : squares(SO) };
  return {
    n: [...S.values()].reduce((sum, count) => sum + count, 0),
    held,
    open: held.SO.map((row, place) => row[place] - held.S[place][place]),
    S: arrays(S),
    SO: arrays(SO),
  };
}

// The number of examples whose set has all these threats.
function supersets({ sets, counts }, all) {
  let sum = 0;
  for (let i = 0; i < sets.length; i++) if ((sets[i] & all) === all) sum += counts[i];
  return sum;
}

// One end of the interval of the average, from counts of pairs. Zou and Donner 2008.
function averageEnd(held, n, chosen, end) {
  const counts = chosen.map((place) => held[place][place]);
  const distances = counts.map((count) => Math.abs(count / n - wilson(count, n)[end]));
  let spread = 0;
  for (const [i, one] of chosen.entries()) {
    for (const [j, other] of chosen.entries()) {
      spread += distances[i] * distances[j] * correlation(counts[i], counts[j], held[one][other], n);
    }
  }
  const half = Math.sqrt(Math.max(0, spread)) / chosen.length;
  const middle = counts.reduce((sum, count) => sum + count / n, 0) / chosen.length;
  return end ? Math.min(1, middle + half) : Math.max(0, middle - half);
}

// Union and average over the threats at the chosen places, from what `prepare` returns.
function recomputed(prepared, chosen) {
  const { n, held } = prepared;
  const all = chosen.reduce((mask, place) => mask | (1 << place), 0);
  const stands = supersets(prepared.S, all);
  const open = supersets(prepared.SO, all) - stands;
  let total = 0;
  for (const place of chosen) total += held.SO[place][place] / n;
  return {
    union: (stands + open) / n,
    unionInterval: [wilson(stands, n)[0], wilson(stands + open, n)[1]],
    unionOpen: open,
    average: total / chosen.length,
    averageInterval: [averageEnd(held.S, n, chosen, 0), averageEnd(held.SO, n, chosen, 1)],
    averageOpen: chosen.reduce((sum, place) => sum + prepared.open[place], 0),
  };
}

// The same from numbers of examples by pattern.
function recompute(patterns, chosen) {
  const entries = Object.entries(patterns);
  return recomputed(prepare(setsOf(entries), entries[0][0].length), chosen);
}

// The accuracy under the threat at one place, its interval, and the open examples.
function single({ n, held, open }, place) {
  const [stands, all] = [held.S[place][place], held.SO[place][place]];
  return [all / n, [wilson(stands, n)[0], wilson(all, n)[1]], open[place]];
}

const LEVELS = "0123456789abcdefghijk"; // twentieths of a radius

// The outcome within k twentieths of the radius: a break counts from its level on; letters of outcomes stay.
function atLevel(letter, k) {
  const level = LEVELS.indexOf(letter);
  if (level < 0) return letter;
  return level <= k ? "B" : "S";
}

// The outcomes within k twentieths of the radius, from a string of levels.
function within(levels, k) {
  const letters = {};
  for (const level of `WBSO${LEVELS}`) letters[level] = atLevel(level, k);
  return Array.from(levels, (level) => letters[level]).join("");
}

// The sets of threats that examples withstand within smaller radii: from a string of levels, and a number of twentieths,
// per threat. The same as `setsOf` of the outcomes, without a string per example.
function setsWithin(levels, steps) {
  const of = { S: new Uint32Array(levels[0].length), SO: new Uint32Array(levels[0].length) };
  for (const [place, row] of levels.entries()) {
    const bits = { S: new Uint32Array(128), SO: new Uint32Array(128) }; // by code of the letter
    for (const letter of `WBSO${LEVELS}`) {
      const outcome = atLevel(letter, steps[place]);
      for (const letters of ["S", "SO"]) if (letters.includes(outcome)) bits[letters][letter.charCodeAt(0)] = 1 << place;
    }
    for (const letters of ["S", "SO"]) {
      const [sets, bit] = [of[letters], bits[letters]];
      for (let i = 0; i < row.length; i++) sets[i] |= bit[row.charCodeAt(i)];
    }
  }
  const counted = (sets) => {
    const counts = new Map();
    for (const set of sets) counts.set(set, (counts.get(set) ?? 0) + 1);
    return counts;
  };
  return { S: counted(of.S), SO: counted(of.SO) };
}

// The number in the data set of each example, from slices: "0:10 12:14".
function exampleNumbers(text) {
  const numbers = [];
  for (const part of text.split(" ").filter(Boolean)) {
    const [first, last] = part.split(":").map(Number);
    for (let i = first; i < last; i++) numbers.push(i);
  }
  return numbers;
}

// Percent with one digit, rounded as Python does: a tie goes to the even digit.
function percent(share) {
  const value = 100 * share;
  if (!Number.isInteger(4 * value) || Number.isInteger(2 * value)) return value.toFixed(1);
  const below = Math.floor(10 * value);
  return ((below % 2 ? below + 1 : below) / 10).toFixed(1);
}

// The exact two-sided p-value for the examples on which two models differ. McNemar 1947.
function mcnemar(gained, lost) {
  const n = gained + lost;
  const logs = [0]; // logarithms of factorials
  for (let k = 1; k <= n; k++) logs.push(logs[k - 1] + Math.log(k));
  let tail = 0;
  for (let k = 0; k <= Math.min(gained, lost); k++) {
    tail += Math.exp(logs[n] - logs[k] - logs[n - k] - n * Math.LN2);
  }
  return Math.min(1, 2 * tail);
}

// Numbers of examples by which of two models stands; open ones of either model are counted apart.
function pairs(one, other) {
  const counts = { both: 0, first: 0, second: 0, neither: 0, open: 0 };
  for (let i = 0; i < one.length; i++) {
    if (one[i] === "O" || other[i] === "O") counts.open += 1;
    else if (one[i] === "S") counts[other[i] === "S" ? "both" : "first"] += 1;
    else counts[other[i] === "S" ? "second" : "neither"] += 1;
  }
  return counts;
}

// The outcomes before any attack: S where the model was correct, open where no answer is known.
function before(rows) {
  return Array.from(rows[0], (_, i) => {
    const letters = rows.map((row) => row[i]).join("");
    if (letters.includes("W")) return "W";
    return letters === "O".repeat(letters.length) ? "O" : "S";
  }).join("");
}

function under(rows, chosen) {
  return Array.from(rows[0], (_, i) => worst(rows.map((row) => row[i]), chosen)).join("");
}

function shownP(p) {
  if (p < 0.0001) return "p < 0.0001";
  return `p = ${p < 0.01 ? Number(p.toPrecision(1)) : p.toFixed(2)}`;
}

// The result of a comparison in one sentence.
function verdict(first, second, counts) {
  const p = mcnemar(counts.first, counts.second);
  const open = counts.open ? `; ${counts.open} open examples are left out` : "";
  if (counts.first + counts.second === 0) return `no difference: no decided example separates the two${open}`;
  const numbers = (more, less) => `${more} against ${less} examples, ${shownP(p)}${open}`;
  if (p >= 0.05) return `not decisive: ${numbers(counts.first, counts.second)}`;
  return counts.first > counts.second
    ? `${first} is better: ${numbers(counts.first, counts.second)}`
    : `${second} is better: ${numbers(counts.second, counts.first)}`;
}

if (typeof module !== "undefined") {
  module.exports = {
    wilson, worst, setsOf, parseSets, prepare, recompute, recomputed, single, within, setsWithin, exampleNumbers,
    percent, mcnemar, pairs, before, under, verdict,
  };
}
