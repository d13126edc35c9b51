"use strict";

// Draws the curves of the runs in #data, and draws them again when somebody wants to see them
// another way. Names of runs come from strangers: they are shown, never run.

const { runs } = JSON.parse(document.getElementById("data").textContent);
const drawings = [...document.querySelectorAll(".drawing")];
const form = document.querySelector(".controls");
const hidden = new Set();

const SMOOTHED = new Set(["loss", "grad_norm", "tokens_per_second", "mfu"]);
const RANGED = new Set(["loss", "val_loss", "grad_norm", "lr"]);
const LOSSES = new Set(["loss", "val_loss"]);
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const PLACES = { step: "updates", tokens: "tokens" };
const TIMES = [[3 * 3600, 3600, "hours"], [180, 60, "minutes"], [0, 1, "seconds"]];
const FORMATS = { loss: ".5~g", val_loss: ".5~g", lr: ".3~g", mfu: ".1%" };

const updates = Math.max(1, ...runs.map((run) => run.updates.step.at(-1) ?? 0));
const windows = smoothingWindows();

function smoothingWindows() {
  // A mean over 1, 2, 5, 10, 20, ... updates: from what one point stands for to a quarter of all.
  const smallest = Math.max(1, ...runs.flatMap((run) => run.updates.count));
  const sizes = [];
  for (let power = 1; power <= updates; power *= 10)
    for (const digit of [1, 2, 5])
      if (digit * power > smallest && digit * power <= updates / 4) sizes.push(digit * power);
  return [smallest, ...sizes];
}

function smooth(values, counts, width) {
  // The mean over about `width` updates around each point. Where a run begins, as many before as
  // after it, so that a fall is not drawn flatter than it is; at its end, what there is.
  const sums = [0], weights = [0];
  let updatesBefore = 0;
  const begins = values.map((value, i) => {
    const begin = updatesBefore;
    updatesBefore += counts[i];
    sums.push(sums[i] + (value === null ? 0 : value * counts[i]));
    weights.push(weights[i] + (value === null ? 0 : counts[i]));
    return begin;
  });
  let low = 0, high = 0;
  return values.map((value, i) => {
    const reach = Math.min((width - counts[i]) / 2, begins[i]);
    while (begins[low] < begins[i] - reach) low++;
    while (high < values.length && begins[high] <= begins[i] + reach) high++;
    if (value === null) return null;
    return (sums[high] - sums[low]) / (weights[high] - weights[low]);
  });
}

function zigzag(values, lows, highs) {
  // Both extremes of each group, one after the other: a line that fills what the updates filled.
  if (!lows) return { at: (place) => place, values };
  return {
    at: (place) => place.flatMap((x) => [x, x]),
    values: lows.flatMap((low, i) => (i % 2 ? [highs[i], low] : [low, highs[i]])),
  };
}

function wishes() {
  const place = form.elements.place.value;
  const width = windows[form.elements.window.value];
  return {
    place,
    width,
    logAcross: form.elements["log-across"].checked,
    logLoss: form.elements["log-loss"].checked,
    time: TIMES.find(([atLeast]) => longest("seconds") >= atLeast),
  };
}

function longest(place) {
  return Math.max(0, ...runs.map((run) => run.updates[place].at(-1) ?? 0));
}

function across(columns, wish) {
  if (wish.place !== "seconds") return columns[wish.place];
  return columns.seconds.map((seconds) => (seconds === null ? null : seconds / wish.time[1]));
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function plain(text) {
  // Plotly reads tags and %{...} in what it writes; a name has neither.
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll("%{", "%&#123;");
}

function traces(key, wish, range) {
  const behind = [], front = [];
  runs.forEach((run, number) => {
    if (hidden.has(number)) return;
    const line = { color: colour(`run-${run.colour}`), width: 2, dash: DASHES[run.dash] };
    const name = plain(run.name);
    const common = {
      type: "scatter", name, connectgaps: false, mode: "lines", line,
      hovertemplate: `%{y:${FORMATS[key] ?? ".3~s"}}<extra>${name}</extra>`,
    };
    if (key === "val_loss") {
      front.push(heldOut(run, wish, common));
      return;
    }
    const curve = run.updates[key];
    if (!curve) return;
    const x = across(run.updates, wish);
    const isSmoothed = SMOOTHED.has(key);
    const y = isSmoothed ? smooth(curve.mean, run.updates.count, wish.width) : curve.mean;
    if (isSmoothed && (wish.width > 1 || curve.low)) behind.push(raw(curve, x, common));
    const mode = x.length > 1 ? "lines" : "lines+markers";
    front.push({ ...common, x, y, mode, marker: { size: 6 } });
    if (key === "loss" && (run.status === "diverged" || run.status === "failed"))
      front.push(...endMark(run, x, y, wish, range, common));
  });
  return [...behind, ...front];
}

function heldOut(run, wish, common) {
  const { step, val_loss: y } = run.evaluations;
  const mode = step.length > 50 ? "lines" : "lines+markers";
  return { ...common, x: across(run.evaluations, wish), y, mode, marker: { size: 6 } };
}

function raw(curve, x, common) {
  const { at, values } = zigzag(curve.mean, curve.low, curve.high);
  const opacity = runs.length - hidden.size > 4 ? 0.13 : 0.25;
  const line = { color: common.line.color, width: 1 };
  return { ...common, x: at(x), y: values, line, opacity, hoverinfo: "skip", hovertemplate: null };
}

function endMark(run, x, values, wish, range, common) {
  // A cross where a run broke off, at the edge of what is seen if it is beyond.
  const last = values.findLastIndex((value) => value !== null);
  if (last < 0) return [];
  const top = range ? (wish.logLoss ? 10 ** range[1] : range[1]) : Infinity;
  return [{
    ...common, x: [x[last]], y: [Math.min(values[last], top)], mode: "markers", cliponaxis: false,
    marker: { symbol: "x", size: 11, color: colour("bad") }, customdata: [values[last]],
    hovertemplate: `${run.status} at %{customdata:.5~g}<extra>${common.name}</extra>`,
  }];
}

function least(values) {
  return values.reduce((a, b) => Math.min(a, b), Infinity);
}

function greatest(values) {
  return values.reduce((a, b) => Math.max(a, b), -Infinity);
}

function isLogarithmic(key, wish) {
  return key === "grad_norm" || (LOSSES.has(key) && wish.logLoss);
}

function rangeAtFirst(key, wish) {
  // One run that went astray, or began high, would make the others flat: the top of the training
  // loss is where that run begins that begins lowest, or where the last one ends, if that is
  // higher. A double click shows all.
  const visible = runs.filter((_, number) => !hidden.has(number));
  const good = visible.filter((run) => run.status !== "diverged");
  const isLog = isLogarithmic(key, wish);
  const curves = (good.length ? good : visible)
    .map((run) => {
      const curve = key === "val_loss" ? { mean: run.evaluations.val_loss } : run.updates[key];
      if (!curve) return [];
      if (key === "loss") return smooth(curve.mean, run.updates.count, wish.width);
      return [...curve.mean, ...(curve.low ?? []), ...(curve.high ?? [])];
    })
    .map((values) => values.filter((value) => value !== null && (!isLog || value > 0)))
    .filter((values) => values.length);
  if (!curves.length) return undefined;
  const tops = curves.map(greatest);
  const ends = [
    key === "lr" ? 0 : least(curves.map(least)),
    key === "loss" ? Math.max(least(tops), ...curves.map((curve) => curve.at(-1))) : greatest(tops),
  ];
  const [low, high] = isLog ? ends.map(Math.log10) : ends;
  const margin = 0.05 * (high - low || Math.abs(high) || 1);
  return [key === "lr" ? 0 : low - margin, high + margin];
}

function layout(key, wish, range) {
  const soft = colour("soft"), rule = colour("rule");
  const axis = {
    gridcolor: rule, zeroline: false, linecolor: rule, tickcolor: rule, ticks: "outside",
    ticklen: 4, automargin: true, exponentformat: "SI", minexponent: 4, fixedrange: false,
  };
  const unit = wish.place === "seconds" ? wish.time[1] : 1;
  const isLog = isLogarithmic(key, wish);
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: soft },
    margin: { l: 46, r: 10, t: 8, b: 40 },
    showlegend: false,
    hovermode: runs.length - hidden.size <= 12 ? "x unified" : "closest",
    hoverlabel: { bgcolor: colour("paper"), bordercolor: rule, font: { color: colour("ink") } },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: {
      ...axis,
      type: wish.logAcross ? "log" : "linear",
      title: { text: wish.place === "seconds" ? wish.time[2] : PLACES[wish.place], standoff: 8 },
      showgrid: false,
      hoverformat: wish.place === "seconds" ? ".2f" : ",d",
      ...(wish.logAcross ? { dtick: 1 } : { range: [0, 1.02 * longest(wish.place) / unit] }),
    },
    yaxis: {
      ...axis,
      type: isLog ? "log" : "linear",
      ...(RANGED.has(key) ? { range } : {}),
      ...(isLog && range && range[1] - range[0] > 1.5 ? { dtick: 1 } : {}),
      ...(key === "tokens_per_second" || key === "mfu" ? { rangemode: "tozero" } : {}),
      ...(key === "tokens_per_second" ? { tickformat: "~s" } : {}),
      ...(key === "mfu" ? { tickformat: ".0%" } : {}),
      ...(key === "lr" ? { exponentformat: "e", minexponent: 3 } : {}),
    },
  };
}

const config = { displayModeBar: false };

function draw() {
  const wish = wishes();
  form.querySelector("output").textContent =
    wish.width === 1 ? "every update" : `mean over ${wish.width.toLocaleString("en")} updates`;
  for (const drawing of drawings) {
    const key = drawing.dataset.plot;
    const range = RANGED.has(key) ? rangeAtFirst(key, wish) : undefined;
    const size = { width: drawing.clientWidth, height: drawing.clientHeight };
    const asWished = { ...layout(key, wish, range), ...size };
    Plotly.react(drawing, traces(key, wish, range), asWished, config);
  }
}

let asked = 0;
function drawSoon() {
  clearTimeout(asked);
  asked = setTimeout(draw, 15);
}

function choose(number, isShown) {
  if (isShown) hidden.delete(number);
  else hidden.add(number);
  document.querySelector(`[data-run="${number}"]`).setAttribute("aria-pressed", String(isShown));
  const all = document.getElementById("all");
  if (all) all.textContent = hidden.size ? "show all" : "hide all";
}

function print(isPrinting) {
  document.documentElement.classList.toggle("printing", isPrinting);
  draw();
}

if (drawings.length) {
  const slider = form.elements.window;
  const usual = windows.findLastIndex((width) => width <= Math.max(1, updates / 25));
  slider.max = windows.length - 1;
  slider.value = Math.max(0, usual);
  slider.disabled = windows.length === 1;
  form.addEventListener("input", drawSoon);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.querySelectorAll("[data-run]").forEach((button) =>
    button.addEventListener("click", () => {
      const number = Number(button.dataset.run);
      choose(number, hidden.has(number));
      drawSoon();
    }),
  );
  document.getElementById("all")?.addEventListener("click", () => {
    const show = hidden.size > 0;
    runs.forEach((_, number) => choose(number, show));
    drawSoon();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawSoon);
  addEventListener("resize", drawSoon);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  draw();
}
