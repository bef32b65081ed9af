"use strict";
// Figures of examples from sheets of images, as templates/gallery.html makes them.

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// One image of a sheet: the place counts along rows of `columns` images.
function picture(sheet, place, columns, label) {
  const made = element("span", "", { class: "picture", role: "img", "aria-label": label });
  made.style.backgroundImage = `url("${sheet}")`;
  made.style.setProperty("--x", place % columns);
  made.style.setProperty("--y", Math.floor(place / columns));
  return made;
}

// Clean, adversarial and difference of one place.
function pictures(sheets, place, columns) {
  return ["clean", "adversarial", "difference"].map((name) => picture(sheets[name], place, columns, name));
}

// The sizes that the style sheet needs, on the element that holds figures.
function setSizes(holder, { width, height, columns, labels }) {
  const sizes = { w: width, h: height, columns, rows: Math.ceil(labels.length / columns) };
  for (const [name, value] of Object.entries(sizes)) holder.style.setProperty(`--${name}`, value);
}

function showAll(gallery) {
  const button = gallery.querySelector(".more");
  if (!button) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    const columns = Number(gallery.style.getPropertyValue("--columns"));
    for (const figure of gallery.querySelectorAll("figure[hidden]")) {
      const place = Number(figure.querySelector("figcaption").dataset.place);
      figure.prepend(...pictures(gallery.dataset, place, columns));
      figure.hidden = false;
    }
    button.remove();
  });
}

if (typeof document !== "undefined") {
  for (const gallery of document.querySelectorAll(".gallery")) showAll(gallery);
}
