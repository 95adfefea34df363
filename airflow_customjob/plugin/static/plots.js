// The tab's small drawings: the job's states over time, a replica's life, its usage.

import { clock, duration } from "./model.js";

const { createElement: h } = globalThis.React;

const WIDTH = 76, HEIGHT = 22;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

const percent = (fraction) => `${(Math.min(1, Math.max(0, fraction)) * 100).toFixed(2)}%`;

/** Where moments are between the job's creation and its end, or now. */
export function scaleOf({ created, until }) {
  const from = created ?? until, span = Math.max(until - from, 1000);
  return { from, span, at: (moment) => (moment - from) / span };
}

/** Some round times, in milliseconds after the job's creation; the last one has room for its text. */
export function ticksOf({ span }, most) {
  const step = 1000 * (STEPS.find((seconds) => span / 1000 / seconds <= most) ?? 31536000);
  return Array.from({ length: Math.floor(span / step) + 1 }, (_, i) => i * step).filter((tick) => tick < span * (1 - 0.5 / most));
}

export function Axis({ scale, most = 8 }) {
  return h("div", { className: "cj-axis", "aria-hidden": true }, ticksOf(scale, most).map((tick) => h("span", {
    key: tick, style: { left: percent(tick / scale.span) },
  }, duration(tick).replace(/([dhm])0+[hms]$/, "$1"))));
}

/** The job's states, one after the other; what they lasted is also written, for those too short to be seen. */
export function Timeline({ job, scale }) {
  const states = job.states.filter(({ state }) => state !== job.state || !job.terminal);
  return h("div", { className: "cj-timeline" },
    h("div", { className: "cj-track", "aria-hidden": true }, states.map((entry, i) => h("span", {
      key: i, className: `cj-span cj-state-${entry.state}`, title: `${entry.state}: ${duration(entry.to - entry.from)}`,
      style: { left: percent(scale.at(entry.from)), width: percent((entry.to - entry.from) / scale.span) },
    }))),
    h(Axis, { scale }),
    h("ol", { className: "cj-steps", "aria-label": "States of the job" },
      job.states.map((entry, i) => h("li", { key: i },
        h("span", { className: `cj-dot cj-state-${entry.state}` }),
        entry.state, entry.attempt && entry.state !== job.states[i - 1]?.state ? ` (start ${entry.attempt + 1})` : "",
        h("span", { className: "cj-muted" }, " ", clock(entry.from),
          entry.to > entry.from ? `, ${duration(entry.to - entry.from)}` : "")))));
}

export function LifeBar({ replica, scale }) {
  if (replica.started === undefined) return null;
  const lasted = duration(replica.until - replica.started);
  return h("div", { className: "cj-track", role: "img", "aria-label": `ran ${lasted}, from ${clock(replica.started)}` },
    h("span", {
      className: `cj-span cj-kind-${replica.kind}`, title: `${clock(replica.started)}, ${lasted}`,
      style: {
        left: percent(scale.at(replica.started)), width: percent((replica.until - replica.started) / scale.span),
      },
    }));
}

/** One replica's CPUs or memory over the job's time; all replicas share one scale, and can be compared.
 *  @param text how a value is written */
export function Usage({ series, scale, text, label, peak }) {
  if (!series) return h("span", { className: "cj-muted" }, "–");
  const { times, values, latest } = series;
  const points = values.map((value, i) => value === null ? null : [
    Math.min(1, Math.max(0, scale.at(times[i]))) * WIDTH, HEIGHT - 1 - (peak ? value / peak : 0) * (HEIGHT - 2),
  ]).filter(Boolean).map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`);
  const highest = Math.max(...values.filter((value) => value !== null));
  const now = latest === null ? "" : text(latest);
  return h("span", { className: "cj-usage" },
    h("svg", {
      width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
      "aria-label": `${label}: ${now ? `now ${now}, ` : ""}at most ${text(highest)}`,
    },
    h("title", null, `${label}: at most ${text(highest)}`),
    points.length > 1 ? h("polygon", {
      points: `${points[0].split(",")[0]},${HEIGHT} ${points.join(" ")} ${points.at(-1).split(",")[0]},${HEIGHT}`,
    }) : null,
    points.length > 1 ? h("polyline", { points: points.join(" ") }) :
      h("circle", { cx: points[0]?.split(",")[0], cy: points[0]?.split(",")[1], r: 1.5 })),
    h("span", { className: "cj-number" }, now));
}

/** A whole pool in little: one square per replica. */
export function Squares({ replicas }) {
  return h("div", { className: "cj-squares", "aria-hidden": true },
    replicas.map(({ name, kind }) => h("span", { key: name, className: `cj-kind-${kind}`, title: `${name}: ${kind}` })));
}
