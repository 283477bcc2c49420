// Draws the charts of a page: as wide as their column, in the colours of the page, again when either changes.
"use strict";
(() => {
  const { seconds, charts } = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const COLOURS = { light: ["#1c5bb8", "#1e7d43", "#c0392b", "#a06a00"], dark: ["#86b5ff", "#6bd394", "#ff9089", "#f0b95a"] };
  const short = (value) => value === null ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : String(+value.toPrecision(3));
  const percent = (value) => value === null ? "–" : `${(100 * value).toFixed(0)} %`;
  let plots = [];

  function draw() {
    plots.forEach(({ plot }) => plot.destroy());
    const ink = getComputedStyle(document.body).color, rule = dark.matches ? "#3a404a" : "#e3e6ea";
    const colours = COLOURS[dark.matches ? "dark" : "light"];
    plots = charts.map(({ lines, share }, number) => {
      const box = document.querySelector(`[data-chart="${number}"]`), show = share ? percent : short;
      const axis = { stroke: ink, grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1 } };
      const plot = new uPlot({
        width: box.clientWidth, height: 180,
        cursor: { sync: { key: "seconds" }, points: { size: 6 } },
        scales: { x: { time: false }, y: { range: (_, low, high) => share ? [0, 1] : [0, Math.max(high, 1e-9) * 1.05] } },
        axes: [
          { ...axis, values: (_, marks) => marks.map((mark) => `${mark} s`) },
          { ...axis, size: 56, values: (_, marks) => marks.map(show) },
        ],
        series: [
          { label: "second", value: (_, value) => value === null ? "–" : `${value} s` },
          ...Object.keys(lines).map((label, index) => ({
            label, stroke: colours[index % colours.length], width: 2, points: { show: false }, spanGaps: false,
            value: (_, value) => show(value),
          })),
        ],
      }, [seconds, ...Object.values(lines)], box);
      return { box, plot };
    });
  }

  draw();
  dark.addEventListener("change", draw);
  addEventListener("resize", () => plots.forEach(({ box, plot }) => plot.setSize({ width: box.clientWidth, height: 180 })));
})();
