"use strict";
// The comparison of two ticked models: paired counts, one sentence, and the examples on which they differ.

const SHOWN = 12; // examples at first, and with each "show more"

const outcomesWaiting = new Map(); // by script: who waits for its outcomes

// Called by the scripts below outcomes/.
function robenchOutcomes(table, model, rows, sheets) {
  outcomesWaiting.get(`${table}/${model}`)?.(rows, sheets);
}

class Comparison {
  constructor(board) {
    this.board = board;
    this.place = board.section.querySelector(".comparison");
    this.known = new Map(); // outcomes and sheets by model
  }

  async show() {
    const boxes = [...this.board.section.querySelectorAll(".compare")];
    const ticked = boxes.filter((box) => box.checked);
    for (const box of boxes) {
      box.disabled = ticked.length >= 2 && !box.checked;
      box.closest("tr").classList.toggle("picked", box.checked);
    }
    const { chosen } = this.board;
    const request = (this.request = {});
    if (ticked.length !== 2 || !chosen.length) {
      const hint = ticked.length === 1 ? [element("p", "Tick a second model to compare.")] : [];
      this.place.replaceChildren(...hint);
      return;
    }
    const ids = ticked.map((box) => box.closest("tr").dataset.model).sort();
    try {
      const loaded = [];
      for (const id of ids) loaded.push(await this.load(id));
      if (request === this.request) this.place.replaceChildren(...this.compared(ids, loaded, chosen));
    } catch (error) {
      if (request === this.request) this.place.replaceChildren(element("p", `${error.message}.`));
    }
  }

  async load(id) {
    const { board, id: table, radius } = this.board;
    if (!this.known.has(id)) {
      const key = `${table}/${id}`;
      const [rows, sheets] = await loaded(`outcomes/${board.id}/${key}.js`, outcomesWaiting, key);
      this.known.set(id, { rows, sheets });
    }
    const { rows, sheets } = this.known.get(id);
    return { rows: await radius.rows(id, rows), sheets };
  }

  compared(ids, loaded, chosen) {
    const { table, radius } = this.board;
    const [one, other] = loaded.map(({ rows }) => rows);
    const names = ids.map((id) => table.models[id].name);
    const lines = [["clean", pairs(before(one), before(other))]];
    for (const place of chosen) lines.push([radius.name(place), pairs(one[place], other[place])]);
    if (chosen.length > 1) lines.push(["union", pairs(under(one, chosen), under(other, chosen))]);
    const [last, counts] = lines[lines.length - 1];
    const sentences = [`${names[0]} and ${names[1]}, ${last}: ${verdict(...names, counts)}.`];
    for (const id of ids) {
      const { name, beyond } = table.models[id];
      if (beyond) sentences.push(`Examples of ${name} broken only by evidence of runs outside its protocol: ${beyond}.`);
    }
    const details = element("div", "", { "aria-live": "off" }); // a screen reader announces the sentences alone
    details.append(this.counted(names, lines), ...this.differing(names, loaded, chosen));
    return [...sentences.map((sentence) => element("p", sentence)), details];
  }

  counted([first, second], lines) {
    const table = element("table", "");
    table.append(element("caption", `${first} and ${second}: decided examples by the model that stands`));
    const head = table.createTHead().insertRow();
    for (const text of ["examples under", `only ${first}`, `only ${second}`, "both", "neither", "open", "McNemar, exact"]) {
      head.append(element("th", text, { scope: "col" }));
    }
    const body = table.createTBody();
    for (const [name, c] of lines) {
      const row = body.insertRow();
      row.append(element("th", name, { scope: "row" }));
      for (const number of [c.first, c.second, c.both, c.neither, c.open]) {
        row.append(element("td", String(number), { class: "number" }));
      }
      row.append(element("td", shownP(mcnemar(c.first, c.second)), { class: "number" }));
    }
    const box = element("div", "", { class: "scroll", role: "region", "aria-label": "Comparison", tabindex: "0" });
    box.append(table);
    return box;
  }

  // The examples that one model withstands and the other does not, with images as far as there are any.
  differing(names, loaded, chosen) {
    const { table } = this.board;
    const [one, other] = loaded.map(({ rows }) => under(rows, chosen));
    const places = [];
    for (let i = 0; i < one.length; i++) {
      if (one[i] !== "O" && other[i] !== "O" && (one[i] === "S") !== (other[i] === "S")) places.push(i);
    }
    if (!places.length) return [];
    const numbers = exampleNumbers(table.numbers);
    const holder = element("div", "", { class: "figures" });
    if (table.images) setSizes(holder, table.images);
    const button = element("button", "", { type: "button", class: "more" });
    let shown = 0;
    const more = () => {
      for (const place of places.slice(shown, shown + SHOWN)) {
        const loser = one[place] === "S" ? 1 : 0;
        holder.append(this.figure(place, numbers[place] ?? place, names[loser], loaded[loser], chosen));
      }
      shown = Math.min(places.length, shown + SHOWN);
      button.textContent = `Show more (${places.length - shown} left)`;
      button.hidden = shown === places.length;
    };
    button.addEventListener("click", more);
    more();
    const title = `The ${places.length === 1 ? "example" : `${places.length} examples`} on which they differ`;
    return [element("h3", title), holder, button];
  }

  // One example: the first chosen threat under which the model loses it, and its images.
  figure(place, number, name, { rows, sheets }, chosen) {
    const { table, radius } = this.board;
    const figure = element("figure", "");
    const images = table.images;
    const wrong = chosen.some((at) => rows[at][place] === "W");
    const broken = chosen.filter((at) => rows[at][place] === "B");
    const at = broken.find((threat) => sheets[threat]?.sizes[place] !== undefined);
    const label = images && place < images.labels.length ? `, class ${images.labels[place]}` : "";
    let how = wrong ? `${name} is wrong before any attack` : `${name} is broken under ${radius.name(at ?? broken[0])}`;
    if (at !== undefined) {
      const { sizes, scale, ...paths } = sheets[at];
      figure.append(...pictures({ clean: images.clean, ...paths }, place, images.columns));
      how += `, size ${Number(sizes[place].toPrecision(3))}`;
    } else if (label) {
      figure.append(picture(images.clean, place, images.columns, "clean"));
    }
    figure.append(element("figcaption", `example ${number}${label}: ${how}`));
    return figure;
  }
}
