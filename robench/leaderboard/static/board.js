"use strict";
// The tables of a data set: sorting, filtering, the choice of threats, and comparison of two models.
// The first part is pure functions, the same as robench/leaderboard/patterns.py; tests compare them with Python.

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

// One end of the interval of the average, from counts of pairs. Zou and Donner 2008.
function averageEnd(entries, n, chosen, letters, end) {
  const holds = (pattern, place) => letters.includes(pattern[place]);
  const total = (test) => entries.reduce((sum, [pattern, count]) => (test(pattern) ? sum + count : sum), 0);
  const counts = chosen.map((place) => total((pattern) => holds(pattern, place)));
  const distances = counts.map((count) => Math.abs(count / n - wilson(count, n)[end]));
  let spread = 0;
  for (const [i, one] of chosen.entries()) {
    for (const [j, other] of chosen.entries()) {
      const both = total((pattern) => holds(pattern, one) && holds(pattern, other));
      spread += distances[i] * distances[j] * correlation(counts[i], counts[j], both, n);
    }
  }
  const half = Math.sqrt(Math.max(0, spread)) / chosen.length;
  const middle = counts.reduce((sum, count) => sum + count / n, 0) / chosen.length;
  return end ? Math.min(1, middle + half) : Math.max(0, middle - half);
}

// Union and average over the threats at the chosen places, from numbers of examples by pattern.
function recompute(patterns, chosen) {
  const entries = Object.entries(patterns);
  const n = entries.reduce((sum, [, count]) => sum + count, 0);
  const union = { W: 0, B: 0, S: 0, O: 0 };
  for (const [pattern, count] of entries) union[worst(pattern, chosen)] += count;
  let total = 0;
  let open = 0;
  for (const place of chosen) {
    let held = 0;
    for (const [pattern, count] of entries) {
      if (pattern[place] === "S" || pattern[place] === "O") held += count;
      if (pattern[place] === "O") open += count;
    }
    total += held / n;
  }
  return {
    union: (union.S + union.O) / n,
    unionInterval: [wilson(union.S, n)[0], wilson(union.S + union.O, n)[1]],
    unionOpen: union.O,
    average: total / chosen.length,
    averageInterval: [averageEnd(entries, n, chosen, "S", 0), averageEnd(entries, n, chosen, "SO", 1)],
    averageOpen: open,
  };
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
  module.exports = { wilson, worst, recompute, percent, mcnemar, pairs, before, under, verdict };
}

// The page.

const waiting = new Map(); // scripts with outcomes that are being loaded

// Called by the scripts below outcomes/.
function robenchOutcomes(table, model, rows) {
  waiting.get(`${table}/${model}`)?.(rows);
}

function outcomesOf(board, table, model) {
  return new Promise((resolve, reject) => {
    waiting.set(`${table}/${model}`, resolve);
    const script = document.createElement("script");
    script.src = `outcomes/${board.id}/${table}/${model}.js`;
    script.onerror = () => reject(new Error(`${script.src} cannot be read`));
    document.head.append(script);
  });
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function fillCell(cell, share, interval, open, measured, masked) {
  cell.replaceChildren();
  cell.removeAttribute("title");
  cell.dataset.value = measured ? share : -1;
  if (!measured) {
    cell.textContent = "not measured";
    return;
  }
  cell.append((open ? "≤ " : "") + percent(share));
  if (masked) {
    const title = "gradients are masked, or may be: a stronger attack may find more";
    cell.append(element("span", "†", { class: "mark", title }));
  }
  const [low, high] = interval.map(percent);
  cell.append(element("span", `${low}–${high}`, { class: "ci" }));
  const bar = element("span", "", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--low", low);
  bar.style.setProperty("--high", high);
  cell.append(bar);
}

class BoardTable {
  constructor(board, section) {
    this.board = board;
    this.id = section.dataset.table;
    this.table = board.tables[this.id];
    this.section = section;
    this.body = section.querySelector("tbody");
    this.rows = [...this.body.rows];
    this.made = new Map(); // cells of union and average as they came, with marks, once they are changed
    section.querySelector(".controls").hidden = false;
    section.querySelector(".filter").addEventListener("input", () => this.filter());
    this.heads();
    this.boxes(".tick", () => this.choose());
    this.boxes(".compare", () => this.compare());
    this.filter(); // browsers restore ticks and texts when a page is visited again
    if (this.chosen.length < this.table.threats.length) this.choose();
    this.compare();
  }

  boxes(selector, changed) {
    for (const box of this.section.querySelectorAll(selector)) {
      box.hidden = false;
      box.addEventListener("change", changed);
    }
  }

  get chosen() {
    return [...this.section.querySelectorAll(".tick:checked")].map((box) => Number(box.value));
  }

  heads() {
    for (const head of this.section.querySelectorAll("thead th:not(.pick)")) {
      const button = element("button", head.textContent.trim(), { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const first = head.dataset.kind === "text" ? "ascending" : "descending";
        const now = head.getAttribute("aria-sort");
        const order = !now ? first : now === "ascending" ? "descending" : "ascending";
        for (const other of this.section.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        this.sort();
      });
    }
  }

  sort() {
    const head = this.section.querySelector("th[aria-sort]");
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const sign = head.getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const text = head.dataset.kind === "text";
    const order = (a, b) => (text ? value(a).localeCompare(value(b), "en") : Number(value(a)) - Number(value(b)));
    this.rows.sort((a, b) => sign * order(a, b));
    this.body.append(...this.rows);
  }

  filter() {
    const text = this.section.querySelector(".filter").value.trim().toLowerCase();
    if (text === (this.filtered ?? "")) return;
    this.filtered = text;
    for (const row of this.rows) row.hidden = !row.querySelector("th").dataset.value.toLowerCase().includes(text);
  }

  choose() {
    const { chosen, table } = this;
    const all = chosen.length === table.threats.length;
    for (const row of this.rows) this.show(row, chosen, all);
    const names = chosen.map((place) => table.threats[place]).join(", ");
    let sentence = all ? "" : `Union and average are over ${names}; the best of these two columns are not marked.`;
    if (!chosen.length) sentence = "Tick at least one threat.";
    this.section.querySelector(".chosen").textContent = sentence;
    if (this.section.querySelector("th.chosen-over[aria-sort]")) this.sort();
    this.compare();
  }

  show(row, chosen, all) {
    const cells = [row.querySelector(".union"), row.querySelector(".average")];
    for (const cell of cells) {
      if (this.made.has(cell)) continue;
      this.made.set(cell, { html: cell.innerHTML, value: cell.dataset.value, title: cell.getAttribute("title") });
    }
    if (all || !chosen.length) {
      for (const cell of cells) {
        const { html, value, title } = this.made.get(cell);
        if (all) cell.innerHTML = html;
        else cell.textContent = "–";
        cell.dataset.value = all ? value : -1;
        if (all && title !== null) cell.setAttribute("title", title);
        else cell.removeAttribute("title");
      }
      return;
    }
    const model = this.table.models[row.dataset.model];
    const now = recompute(model.patterns, chosen);
    const measured = chosen.map((place) => model.measured[place]);
    const masked = chosen.some((place) => model.masked[place]);
    fillCell(cells[0], now.union, now.unionInterval, now.unionOpen, measured.some(Boolean), masked);
    fillCell(cells[1], now.average, now.averageInterval, now.averageOpen, measured.every(Boolean), masked);
  }

  async compare() {
    const boxes = [...this.section.querySelectorAll(".compare")];
    const ticked = boxes.filter((box) => box.checked);
    for (const box of boxes) box.disabled = ticked.length >= 2 && !box.checked;
    const place = this.section.querySelector(".comparison");
    const { chosen } = this;
    const request = (this.request = {});
    if (ticked.length !== 2 || !chosen.length) {
      place.replaceChildren(...(ticked.length === 1 ? [element("p", "Tick a second model to compare.")] : []));
      return;
    }
    const ids = ticked.map((box) => box.closest("tr").dataset.model).sort();
    try {
      const loaded = [];
      for (const id of ids) loaded.push(await outcomesOf(this.board, this.id, id));
      if (request === this.request) place.replaceChildren(...this.compared(ids, loaded, chosen));
    } catch (error) {
      if (request === this.request) place.replaceChildren(element("p", error.message));
    }
  }

  compared(ids, [one, other], chosen) {
    const [first, second] = ids.map((id) => this.table.models[id].name);
    const rows = [["clean", pairs(before(one), before(other))]];
    for (const place of chosen) rows.push([this.table.threats[place], pairs(one[place], other[place])]);
    if (chosen.length > 1) rows.push(["union", pairs(under(one, chosen), under(other, chosen))]);
    const [last, counts] = rows[rows.length - 1];
    const table = element("table", "");
    table.append(element("caption", `${first} and ${second}: decided examples by the model that stands`));
    const head = table.createTHead().insertRow();
    for (const text of ["examples under", `only ${first}`, `only ${second}`, "both", "neither", "open", "McNemar, exact"]) {
      head.append(element("th", text, { scope: "col" }));
    }
    const body = table.createTBody();
    for (const [name, c] of rows) {
      const row = body.insertRow();
      row.append(element("th", name, { scope: "row" }));
      for (const number of [c.first, c.second, c.both, c.neither, c.open]) {
        row.append(element("td", String(number), { class: "number" }));
      }
      row.append(element("td", shownP(mcnemar(c.first, c.second)), { class: "number" }));
    }
    const box = element("div", "", { class: "scroll", role: "region", "aria-label": "Comparison", tabindex: "0" });
    box.append(table);
    const sentences = [`${first} and ${second}, ${last}: ${verdict(first, second, counts)}.`];
    for (const id of ids) {
      const { name, beyond } = this.table.models[id];
      if (beyond) sentences.push(`Examples of ${name} broken only by evidence of runs outside its protocol: ${beyond}.`);
    }
    return [...sentences.map((sentence) => element("p", sentence)), box];
  }
}

if (typeof document !== "undefined") {
  for (const section of document.querySelectorAll(".board")) new BoardTable(robenchBoard, section);
}
