"use strict";
// Starts the tables of a page.

for (const section of document.querySelectorAll(".board")) new BoardTable(robenchBoard, section);
