// Draws the charts of a page: as wide as their column, in the colours of the page, again when either changes.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const COLOURS = ["#1c5bb8", "#1e7d43", "#c0392b", "#a06a00", "#7d5bbe", "#1f9bb0"];
  const HEIGHT = { lines: 180, points: 300 }, REACH = 24;  // px; how near the pointer has to be
  const short = (value) => value === null ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : String(+value.toPrecision(3));
  const percent = (value) => value === null ? "–" : `${+(100 * value).toFixed(1)} %`;
  const WHOLE = [1, 10, 100, 1e3, 1e4, 1e5].flatMap((power) => [power, 2 * power, 5 * power]);  // steps of an axis
  const shown = (colour) => dark.matches ? `color-mix(in srgb, ${colour}, white 35%)` : colour;
  let plots = [];

  function span(low, high, { share, from_zero }) {
    if (share && from_zero) return [0, 1];
    const air = 0.08 * (high - low) || 0.1 * Math.abs(high) || 0.1;
    const bottom = from_zero ? 0 : low - air, top = high + air;
    return share ? [Math.max(0, bottom), Math.min(1, top)] : [bottom, top];
  }

  // The point under the pointer: of all points, or of the lines at the pointer's x.
  function nearest(plot, kind) {
    const { left, top, idx } = plot.cursor, xs = plot.data[0];
    if (idx === null || idx === undefined || !plot.over.matches(":hover")) return null;
    let found = null, least = REACH;
    for (let line = 1; line < plot.data.length; line++) {
      const all = kind === "points" && !plot.series[line].dash;
      for (let at = all ? 0 : idx; at < (all ? xs.length : idx + 1); at++) {
        const value = plot.data[line][at];
        if (value === null || !plot.series[line].show) continue;
        const distance = Math.hypot(plot.valToPos(xs[at], "x") - left, plot.valToPos(value, "y") - top);
        if (distance < least) [least, found] = [distance, { label: plot.series[line].label, x: xs[at], value }];
      }
    }
    return found;
  }

  function tip(kind, show) {
    const box = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
    return {
      init: (plot) => plot.over.append(box),
      setCursor: (plot) => {
        const found = nearest(plot, kind);
        box.hidden = !found;
        if (!found) return;
        box.textContent = `${found.label}: ${kind === "points" ? `${short(found.x)}, ` : ""}${show(found.value)}`;
        const right = plot.cursor.left > plot.over.clientWidth / 2;
        box.style.cssText = `top:${plot.cursor.top + 12}px;${right
          ? `right:${plot.over.clientWidth - plot.cursor.left}px` : `left:${plot.cursor.left + 12}px`}`;
      },
    };
  }

  // Names beside the points of the front, where they have room.
  function names(plot, lines) {
    const { ctx } = plot, taken = [], line = 12 * devicePixelRatio;
    ctx.save();
    ctx.fillStyle = getComputedStyle(document.body).color;
    ctx.font = `${line}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    lines.forEach(({ label, values, size }) => {
      const at = values.findIndex((value) => value !== null);
      if (!(size > 8)) return;
      const width = ctx.measureText(label).width, y = plot.valToPos(values[at], "y", true) - line;
      const x = Math.min(plot.valToPos(plot.data[0][at], "x", true), plot.bbox.left + plot.bbox.width - width);
      if (taken.some((other) => Math.abs(other.y - y) < line && x < other.end && other.x < x + width)) return;
      taken.push({ x, y, end: x + width });
      ctx.fillText(label, x, y);
    });
    ctx.restore();
  }

  function drawn(section) {
    const chart = JSON.parse(section.querySelector("script").textContent), box = section.querySelector(".plot");
    const { kind, lines, x_title, y_title, share } = chart, show = share ? percent : short;
    const ink = getComputedStyle(document.body).color, rule = dark.matches ? "#3a404a" : "#e3e6ea";
    const axis = { stroke: ink, grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1 } };
    const label = (text) => text ? { label: text, labelSize: 22, labelFont: "12px system-ui, sans-serif" } : {};
    const hover = tip(kind, show);
    const plot = new uPlot({
      width: box.clientWidth, height: HEIGHT[kind],
      cursor: { sync: kind === "lines" ? { key: x_title } : undefined, points: { size: 6, show: kind === "lines" }, drag: { x: false } },
      legend: { live: kind === "lines", markers: { fill: (plot, number) => plot.series[number].stroke(plot, number) } },
      scales: {
        x: { time: false, range: (_, low, high) => kind === "points" ? span(low, high, {}) : low === high ? [low - 1, high + 1] : [low, high] },
        y: { range: (_, low, high) => span(low, high, chart) },
      },
      axes: [
        { ...axis, ...label(x_title), ...chart.x.every(Number.isInteger) ? { incrs: WHOLE } : {}, values: (_, marks) => marks.map(short) },
        { ...axis, ...label(y_title), size: 56, values: (_, marks) => marks.map(show) },
      ],
      series: [
        { label: x_title, value: (_, value) => value === null ? "–" : String(+value.toPrecision(6)) },
        ...lines.map((line, index) => ({
          label: line.label, width: line.dash ? 1 : 2, dash: line.dash, spanGaps: Boolean(line.dash),
          stroke: shown(line.dash ? "#8a8f98" : line.colour ?? COLOURS[index % COLOURS.length]),
          ...line.size
            ? { paths: () => null, points: { show: true, size: line.size, fill: shown(line.colour ?? COLOURS[index % COLOURS.length]) } }
            : { points: { show: line.values.filter((value) => value !== null).length === 1 } },
          value: (_, value) => show(value),
        })),
      ],
      hooks: { init: [hover.init], setCursor: [hover.setCursor], draw: kind === "points" ? [(plot) => names(plot, lines)] : [] },
    }, [chart.x, ...lines.map(({ values }) => values)], box);
    box.plot = plot;  // for the browser's console
    return { box, plot, height: HEIGHT[kind] };
  }

  function draw() {
    plots.forEach(({ plot }) => plot.destroy());
    plots = [...document.querySelectorAll(".chart")].map(drawn);
  }

  draw();
  dark.addEventListener("change", draw);
  addEventListener("resize", () => plots.forEach(({ box, plot, height }) => plot.setSize({ width: box.clientWidth, height })));
});
