"use strict";
// Plots on a model's page: accuracy against radius, against queries, and over time. The tables below hold the numbers.

const COLOURS = { light: ["#0b57a4", "#b3401a", "#2c7a3f", "#7a3fa0", "#8a6a00", "#1c7f8c", "#a0215e", "#555555"] };
COLOURS.dark = ["#8bbdf2", "#f3a17d", "#8fd6a0", "#cba3ea", "#e0c35c", "#7fd4df", "#f08fbc", "#bbbbbb"];
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const HEIGHT = 280;

const dark = typeof matchMedia === "undefined" ? null : matchMedia("(prefers-color-scheme: dark)");

function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function line(label, i) {
  const stroke = COLOURS[dark.matches ? "dark" : "light"][i % 8];
  return { label, stroke, width: 2, dash: DASHES[Math.floor(i / 8) % 4], points: { show: false }, spanGaps: true };
}

function axis(label) {
  const stroke = style("--soft");
  const grid = { stroke: style("--line"), width: 1 };
  return { label, stroke, grid, ticks: grid, font: "12px system-ui, sans-serif", labelFont: "13px system-ui, sans-serif" };
}

// Dates as the tables below write them, with the time where days are too coarse.
function dates(_, ticks) {
  const texts = ticks.map((seconds) => new Date(1000 * seconds).toISOString());
  const days = texts.every((text) => text.endsWith("T00:00:00.000Z"));
  return texts.map((text) => (days ? text.slice(0, 10) : text.slice(0, 16).replace("T", " ")));
}

// Steps of several curves on one axis: the value of a curve holds from its x on.
function joined(curves) {
  const xs = [...new Set(curves.flatMap(({ x }) => x))].sort((a, b) => a - b);
  const held = curves.map(({ x, y }) => {
    let i = -1;
    return xs.map((at) => {
      while (i + 1 < x.length && x[i + 1] <= at) i += 1;
      return i < 0 ? null : y[i];
    });
  });
  return [xs, ...held];
}

const percentOf = (share) => (share === null ? null : 100 * share);

const KINDS = {
  radius({ radius }) {
    const xs = radius[0].standing.map((_, k) => 5 * k);
    const series = radius.map(({ threat }, i) => line(threat, i));
    return { data: [xs, ...radius.map(({ standing }) => standing.map(percentOf))], series, x: "radius, % of the threat's" };
  },
  queries({ queries }) {
    const curves = [];
    for (const { threat, curves: found, clean } of queries) {
      for (const { attack, queries: x, standing } of found) {
        curves.push({ label: `${threat} ${attack}`, x: [1, ...x.map((n) => Math.max(1, n))], y: [clean, ...standing].map(percentOf) });
      }
    }
    const series = curves.map(({ label }, i) => line(label, i));
    return { data: joined(curves), series, x: "forward passes per example", scale: { distr: 3 } };
  },
  history({ history }) {
    if (history.dates.length < 2) return null;
    const xs = history.dates.map((date) => Date.parse(date) / 1000);
    const series = history.names.map((name, i) => line(name, i));
    const columns = history.names.map((_, i) => history.values.map((row) => percentOf(row[i])));
    return { data: [xs, ...columns], series, x: "date of the run, UTC", scale: { time: true }, axis: { values: dates, space: 130 } };
  },
};

function draw(place) {
  const plot = KINDS[place.dataset.plot](robenchModel[Number(place.dataset.table)]);
  place.hidden = !plot;
  if (!plot) return;
  place.querySelector(".uplot")?.remove();
  const stepped = uPlot.paths.stepped({ align: 1 });
  const options = {
    width: Math.min(place.clientWidth, 760),
    height: HEIGHT,
    scales: { x: { time: false, ...plot.scale }, y: { range: [0, 100] } },
    axes: [{ ...axis(plot.x), ...plot.axis }, axis("accuracy, %")],
    series: [{ label: "x" }, ...plot.series.map((one) => ({ ...one, paths: stepped }))],
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    legend: { live: false },
    cursor: { drag: { x: false, y: false } },
  };
  new uPlot(options, plot.data, place);
  const canvas = place.querySelector("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${place.querySelector("h3").textContent}; the table below has the numbers`);
}

if (typeof module !== "undefined") module.exports = { joined };

if (typeof document !== "undefined") {
  const drawAll = () => document.querySelectorAll(".plot").forEach(draw);
  drawAll();
  dark.addEventListener("change", drawAll);
  addEventListener("resize", drawAll);
}
