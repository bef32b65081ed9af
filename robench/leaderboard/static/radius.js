"use strict";
// Radii of threats, in twentieths: recomputed from the levels of every example, which load when a radius is moved.

const FULL = LEVELS.length - 1;
const MAX_LETTERS = 20e6; // letters of levels that a page loads at most
const AT_ONCE = 8; // scripts that load at a time

const levelsWaiting = new Map(); // by script: who waits for its levels

// Called by the scripts below levels/.
function robenchLevels(table, model, rows) {
  levelsWaiting.get(`${table}/${model}`)?.(rows);
}

// Loads a script of the site, which calls back. The promise resolves with what `waiting` receives under `key`.
function loaded(path, waiting, key) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const done = (act, value) => {
      waiting.delete(key);
      script.remove();
      act(value);
    };
    waiting.set(key, (...values) => done(resolve, values));
    script.src = path;
    script.onerror = () => done(reject, new Error(`${path} cannot be read`));
    document.head.append(script);
  });
}

// A radius as a short decimal: of linf:8/255 at half of it, 0.01569.
function shownRadius(threat, k) {
  const [top, bottom = "1"] = threat.slice(threat.indexOf(":") + 1).split("/");
  const value = (Number(top) / Number(bottom)) * (k / FULL);
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : `${k}/${FULL}`;
}

class Radius {
  constructor(board) {
    this.board = board;
    this.levels = new Map(); // by model
    this.cache = new Map(); // counts by model, for the present radii
    this.slides = [...board.section.querySelectorAll(".slide")];
    this.steps = new Map(this.slides.map((slide) => [Number(slide.dataset.place), FULL]));
    for (const slide of this.slides) slide.addEventListener("input", () => this.move());
  }

  get moved() {
    return [...this.steps.values()].some((k) => k < FULL);
  }

  moves(place) {
    return (this.steps.get(place) ?? FULL) < FULL;
  }

  name(place) {
    const threat = this.board.table.threats[place];
    if (!this.moves(place)) return threat;
    return `${threat.slice(0, threat.indexOf(":"))}:${shownRadius(threat, this.steps.get(place))}`;
  }

  // Sliders work where all visible models have levels, and a page can hold them. Others return to the full radius.
  allow() {
    const { table, visible } = this.board;
    const large = visible.length * table.examples * table.threats.length > MAX_LETTERS;
    let changed = false;
    for (const slide of this.slides) {
      const place = Number(slide.dataset.place);
      const known = visible.every((row) => this.board.model(row).levels[place] === "1");
      slide.disabled = large || !known;
      const why = large ? "too many outcomes to load: filter the models" : "not all models have levels";
      if (slide.disabled) {
        changed ||= this.moves(place);
        slide.value = FULL;
        this.steps.set(place, FULL);
      }
      this.label(slide, slide.disabled ? why : "");
    }
    if (changed) this.apply();
    else if (this.moved && this.missing.length) this.move();
  }

  label(slide, text) {
    const place = Number(slide.dataset.place);
    slide.setAttribute("aria-valuetext", this.name(place));
    const radius = this.moves(place) ? `≤ ${this.name(place).split(":")[1]}` : "full radius";
    slide.nextElementSibling.textContent = text || radius;
  }

  async move() {
    for (const slide of this.slides) {
      this.steps.set(Number(slide.dataset.place), Number(slide.value));
      this.label(slide, "");
    }
    if (this.moved && !(await this.load())) return;
    this.apply();
  }

  apply() {
    this.cache.clear();
    this.board.choose();
  }

  // Loads the levels of all visible models. False if another move overtook this one, or a script is missing.
  async load() {
    const missing = this.missing;
    const request = (this.request = {});
    const place = this.board.section.querySelector(".chosen");
    const total = missing.length;
    const worker = async () => {
      while (missing.length && request === this.request) {
        await this.ensure(missing.shift());
        if (total > AT_ONCE) place.textContent = `Loading outcomes: ${total - missing.length} of ${total} models.`;
      }
    };
    try {
      await Promise.all(Array.from({ length: AT_ONCE }, worker));
    } catch (error) {
      if (request === this.request) place.textContent = `${error.message}.`;
      return false;
    }
    return request === this.request;
  }

  // The visible models whose levels are not loaded.
  get missing() {
    return this.board.visible.map((row) => row.dataset.model).filter((model) => !this.levels.has(model));
  }

  async ensure(model) {
    if (this.levels.has(model)) return;
    const key = `${this.board.id}/${model}`;
    const [rows] = await loaded(`levels/${this.board.board.id}/${key}.js`, levelsWaiting, key);
    this.levels.set(model, rows);
  }

  // The outcomes of a model within the present radii, a string per threat; `outcomes` where a radius is full.
  async rows(id, outcomes) {
    if (!this.moved) return outcomes;
    await this.ensure(id);
    const levels = this.levels.get(id);
    return outcomes.map((row, place) => (this.moves(place) ? within(levels[place], this.steps.get(place)) : row));
  }

  // Counts within the present radii; null if the levels of this model are not there.
  counts(id) {
    const levels = this.levels.get(id);
    if (levels && !this.cache.has(id)) this.cache.set(id, this.counted(levels));
    return levels ? this.cache.get(id) : null;
  }

  counted(levels) {
    const places = [...this.board.table.threats.keys()];
    const steps = places.map((place) => this.steps.get(place) ?? FULL);
    return prepare(setsWithin(levels, steps), places.length);
  }
}
