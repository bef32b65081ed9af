"use strict";
// Starts the tables of a page.

const tables = [...document.querySelectorAll(".board")].map((section) => new BoardTable(robenchBoard, section));
addEventListener("pageshow", () => tables.forEach((table) => table.restored()));
performance.mark("robench-ready");
