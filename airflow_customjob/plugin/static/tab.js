// The tab "Custom Job" of Airflow's pages of task instances and DAG runs. Airflow imports this module, and renders what it
// puts at globalThis.AirflowPlugin with the page's React (react_apps in airflow_customjob/plugin/__init__.py).

import { useRun, useTask } from "./api.js";
import {
  clock, cpus, dateAndClock, duration, isDocument, isTerminal, jobOf, memory, stateOf,
} from "./model.js";
import { Axis, LifeBar, scaleOf, Squares, Timeline, Usage } from "./plots.js";

const { createElement: h, memo, useMemo, useState } = globalThis.React;
const { Link } = globalThis.ReactRouterDOM;

/** Replicas of a pool that are shown as rows at once; of a larger one those that need a look, and the others when asked for. */
const FEW = 40, MANY = 500;
const NEEDS_A_LOOK = ["failed", "lost", "waiting"];

/** Those of a replica's words that are shown; a column without any is left out. */
const WORDS = [
  ["Exit", (replica) => replica.exitCode],
  ["Reason", (replica) => (["Completed", "Error"].includes(replica.reason) ? "" : replica.reason)], // the exit code says it
  ["Restarts", (replica) => replica.restarts || ""],
  ["Host", (replica) => replica.node],
  ["Start", (replica) => (replica.started === undefined ? "" : clock(replica.started))],
  ["End", (replica) => (replica.finished === undefined ? "" : clock(replica.finished))],
];
const BEFORE = ["Replica", "Phase"], AFTER = ["CPUs", "Memory", "Log"];

const part = encodeURIComponent;
const pageOf = ({ dagId, runId, taskId, mapIndex }) =>
  `/dags/${part(dagId)}/runs/${part(runId)}/tasks/${part(taskId)}${mapIndex >= 0 ? `/mapped/${mapIndex}` : ""}`;
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

const State = ({ state }) => h("span", { className: `cj-badge cj-state-${state}`, role: "status" }, state);
const Kind = ({ kind }) => h("span", { className: `cj-badge cj-kind-${kind}` }, kind);
const Notice = ({ children }) => h("p", { className: "cj-notice", role: "status" }, children);

/** A bucket is looked at in Google's console; browsers open no local folder from a page. */
function Directory({ path }) {
  const shown = h("code", null, path), bucket = /^gs:\/\/(.+?)\/*$/.exec(path)?.[1];
  if (!bucket) return shown;
  const href = `https://console.cloud.google.com/storage/browser/${bucket.split("/").map(part).join("/")}`;
  return h("a", { href, target: "_blank", rel: "noopener noreferrer" }, shown);
}

// -- a job --------------------------------------------------------------------------------------------------------

function Head({ job, at, isOwn }) {
  const lasted = job.started ? duration((job.ended ?? job.until) - job.started) : undefined;
  const facts = [
    ["Job", h("code", null, job.id)],
    ["Backend", job.backend],
    ["Created", job.created && dateAndClock(job.created)],
    ["Ran", lasted],
    ["Starts", job.generation > 1 || job.attempt ? `generation ${job.generation}, start ${job.attempt + 1}` : ""],
    ["Output", job.output && h(Directory, { path: job.output })],
    ["Task", isOwn ? h(Link, { to: pageOf(at) }, "its log, all replicas") : h(Link, { to: pageOf(at) }, at.taskId)],
  ];
  return h("header", { className: "cj-head" },
    h("h2", null, job.displayName || job.id, " ", h(State, { state: job.state })),
    h("dl", null, facts.filter(([, value]) => value).map(([name, value]) =>
      h("div", { key: name }, h("dt", null, name), h("dd", null, value)))),
    job.message && h("p", { className: "cj-waits" }, job.message),
    job.error && h("pre", { className: "cj-error", role: "alert", tabIndex: 0 }, job.error));
}

/** Numbers of replicas by kind, each a switch of the table's filter. */
function Filter({ counts, total, chosen, choose }) {
  return h("div", { className: "cj-filter", role: "group", "aria-label": "Show replicas by phase" },
    h("span", null, plural(total, "replica")),
    counts.map(([kind, count]) => h("button", {
      key: kind, type: "button", "aria-pressed": chosen === kind, onClick: () => choose(chosen === kind ? "" : kind),
    }, h("span", { className: `cj-dot cj-kind-${kind}` }), `${kind} ${count}`)));
}

function LogOf({ replica, job, rows, isHere }) {
  const row = rows?.found.get(replica.name) ?? rows?.found.get(replica.pool);
  const command = `customjob logs ${job.id} --backend ${job.backend || "NAME"} --replica ${replica.name}`;
  const [copied, tell] = useState(false);
  if (isHere) return h("span", { className: "cj-muted" }, "this row");
  if (row) return h(Link, { to: pageOf(row), "aria-label": `Log of ${replica.name}` }, "log");
  const copy = () => navigator.clipboard?.writeText(command).then(() => tell(true), () => tell(false));
  return h("button", {
    type: "button", className: "cj-copy", title: command, onClick: copy, onBlur: () => tell(false),
    "aria-label": `Copy the command that shows the log of ${replica.name}`,
  }, copied ? "copied" : "command");
}

const Row = memo(function Row({ replica, job, words, scale, peaks, rows, isHere }) {
  const usage = (key, text, name) => h("td", null, h(Usage, {
    series: replica.usage?.[key], scale, text, label: `${name} of ${replica.name}`, peak: peaks[key],
  }));
  return h("tr", { className: isHere ? "cj-here" : undefined },
    h("th", { scope: "row" }, replica.name),
    h("td", null, h(Kind, { kind: replica.kind })),
    words.map(([name, word]) => h("td", { key: name, className: "cj-number" }, word(replica))),
    h("td", { className: "cj-life" }, h(LifeBar, { replica, scale })),
    usage("cpus", cpus, "CPUs"),
    usage("memory", memory, "Memory"),
    h("td", null, h(LogOf, { replica, job, rows, isHere })));
}, (before, after) => before.replica.signature === after.replica.signature && before.scale.span === after.scale.span
  && before.words.length === after.words.length && before.rows === after.rows && before.isHere === after.isHere
  && before.peaks.cpus === after.peaks.cpus && before.peaks.memory === after.peaks.memory && before.job.id === after.job.id);

/** A pool: what it is, then its replicas. */
function Pool({ pool, job, words, scale, peaks, rows, kind, here, width }) {
  const isLarge = pool.count > FEW;
  const [isOpen, open] = useState(!isLarge);
  const [most, showMost] = useState(MANY);
  const wanted = pool.replicas.filter((replica) => (kind ? replica.kind === kind
    : isOpen || NEEDS_A_LOOK.includes(replica.kind) || replica.restarts || replica.name === here));
  if (kind && !wanted.length) return null;
  const used = (key) => pool.replicas.reduce((sum, replica) => sum + (replica.usage?.[key].latest ?? 0), 0);
  const about = [
    plural(pool.count, "replica"), pool.machine, pool.gpus && `${pool.gpus} × ${pool.gpu_type || "GPU"} each`,
    pool.module && `python3 -m ${pool.module}`, pool.image,
    !job.terminal && used("memory") && `in all ${cpus(used("cpus"))} CPUs, ${memory(used("memory"))}`,
  ].filter(Boolean).join(" · ");
  return h("tbody", null,
    h("tr", { className: "cj-pool" }, h("th", { scope: "rowgroup", colSpan: width },
      h("div", { className: "cj-about" }, h("strong", null, pool.name), h("span", { className: "cj-muted" }, about),
        isLarge && !kind && h("button", { type: "button", "aria-expanded": isOpen, onClick: () => open(!isOpen) },
          isOpen ? "only those that need a look" : "all replicas")),
      isLarge && h(Squares, { replicas: pool.replicas }))),
    wanted.slice(0, most).map((replica) => h(Row, {
      key: replica.name, replica, job, words, scale, peaks, rows, isHere: replica.name === here,
    })),
    wanted.length > most && h("tr", null, h("td", { colSpan: width },
      h("button", { type: "button", onClick: () => showMost(Infinity) }, `${wanted.length - most} more`))));
}

function Replicas({ job, rows, here, kind }) {
  const scale = scaleOf(job);
  const peak = (key) => Math.max(0, ...job.replicas.map((replica) => replica.usage?.[key].peak ?? 0));
  const peaks = { cpus: peak("cpus"), memory: peak("memory") };
  const isSaid = (value) => value !== undefined && value !== null && value !== "";
  const words = WORDS.filter(([, word]) => job.replicas.some((replica) => isSaid(word(replica))));
  const width = BEFORE.length + words.length + 1 + AFTER.length;
  const head = (name) => h("th", { key: name, scope: "col" }, name);
  return h("div", { className: "cj-scroll", tabIndex: 0, role: "region", "aria-label": "Replicas" },
    h("table", null,
      h("thead", null, h("tr", null, [...BEFORE, ...words.map(([name]) => name)].map(head),
        h("th", { scope: "col", className: "cj-life" }, h("span", { className: "cj-hidden" }, "Life"), h(Axis, { scale, most: 3 })),
        AFTER.map(head))),
      job.pools.map((pool) => h(Pool, { key: pool.name, pool, job, words, scale, peaks, rows, kind, here, width }))));
}

function Notes({ job }) {
  const packages = job.pools.flatMap((pool) => (pool.packages ?? []).map((uri) => `${pool.name}: ${uri}`));
  const images = job.pools.filter((pool) => pool.image_requested && pool.image_requested !== pool.image)
    .map((pool) => `${pool.name}: ${pool.image}, for ${pool.image_requested}`);
  const parts = [["What runs", [...images, ...packages, ...job.provenance]], ["Other than on Vertex AI", job.notes]];
  return parts.filter(([, lines]) => lines.length).map(([name, lines]) => h("section", { key: name, className: "cj-notes" },
    h("h3", null, name),
    h("ul", null, lines.map((line, i) => h("li", { key: i }, line)))));
}

function Job({ at, xcoms, rows, replica: here, now, page }) {
  const [kind, choose] = useState("");
  const live = isTerminal(stateOf(xcoms.job)) ? 0 : now;
  const job = useMemo(() => {
    const made = jobOf(xcoms, now);
    for (const replica of made.replicas) replica.signature = JSON.stringify(replica); // a row is drawn again when it has changed
    return made;
  }, [xcoms, live]);
  const chosen = job.counts.some(([one]) => one === kind) ? kind : "";
  return h("article", { "aria-label": `Custom job ${job.id}` },
    h(Head, { job, at, isOwn: at.taskId === page.taskId }),
    h(Timeline, { job, scale: scaleOf(job) }),
    h(Filter, { counts: job.counts, total: job.replicas.length, chosen, choose }),
    h(Replicas, { job, rows, here, kind: chosen }),
    h(Notes, { job }));
}

// -- pages --------------------------------------------------------------------------------------------------------

/** What there is to be said instead of, or above, what is shown. */
function Trouble({ error }) {
  if (!error) return null;
  const said = {
    401: "You are signed out: reload the page to sign in again.",
    403: "You may not read the XComs of this DAG, in which its jobs are shown. Whoever looks after this Airflow can give you "
      + "the right to read XComs.",
  };
  return h(Notice, null, said[error.status] ?? `${error.message}; trying again.`);
}

function TaskTab({ page }) {
  const { answer, error, now } = useTask(page);
  if (!answer) return error ? h(Trouble, { error }) : h(Notice, null, "Looking for the job …");
  if (answer.none) {
    const never = "This task runs no custom job.";
    const text = answer.over ? never : "The job has not been submitted yet.";
    return h(Notice, null, answer.none === "never" ? never : text);
  }
  const { at, xcoms, rows, replica } = answer;
  if (!isDocument(xcoms.values.job)) {
    return h(Notice, null, "This Airflow keeps XComs elsewhere than in its database: the job cannot be shown here. The "
      + "command `customjob describe` shows it.");
  }
  return h("div", null, h(Trouble, { error }), h(Job, { at, xcoms: xcoms.values, rows, replica, now, page }));
}

function RunTab({ page }) {
  const { answer, error, now } = useRun(page);
  if (!answer) return error ? h(Trouble, { error }) : h(Notice, null, "Looking for jobs …");
  if (!answer.jobs.length) {
    return h("div", null, h(Trouble, { error }),
      h(Notice, null, answer.over ? "This run has no custom job." : "This run has no custom job yet."));
  }
  const more = answer.total - answer.jobs.length;
  return h("div", null, h(Trouble, { error }),
    h("div", { className: "cj-scroll", tabIndex: 0, role: "region", "aria-label": "Custom jobs of this run" },
      h("table", null,
        h("thead", null, h("tr", null, ["Job", "Task", "State", "Replicas", "Created", "Ran", "Error"].map((name) =>
          h("th", { key: name, scope: "col" }, name)))),
        h("tbody", null, answer.jobs.map((one) => h(JobRow, { key: `${one.at.taskId} ${one.at.mapIndex}`, ...one, now }))))),
    more > 0 && h(Notice, null, `${plural(more, "more job")} of this run ${more === 1 ? "is" : "are"} not shown.`));
}

function JobRow({ at, job: document, now }) {
  const job = jobOf({ job: document }, now);
  return h("tr", null,
    h("th", { scope: "row" }, h(Link, { to: `${pageOf(at)}/plugin/customjob` }, job.displayName || job.id)),
    h("td", null, at.taskId, at.mapIndex >= 0 ? ` [${at.mapIndex}]` : ""),
    h("td", null, h(State, { state: job.state })),
    h("td", { className: "cj-number" }, job.replicas.length),
    h("td", { className: "cj-number" }, job.created ? dateAndClock(job.created) : ""),
    h("td", { className: "cj-number" }, job.started ? duration(job.until - job.started) : ""),
    h("td", { className: "cj-first-line" }, job.error.split("\n")[0]));
}

function CustomJobTab({ dagId, runId, taskId, mapIndex }) {
  const page = { dagId, runId, taskId, mapIndex: Number(mapIndex ?? -1) };
  const key = JSON.stringify(page); // another task's tab starts from nothing
  return h("div", { className: "cj", key }, h(taskId === undefined ? RunTab : TaskTab, { page }));
}

/** Before anything is drawn, so that it is drawn once. */
function styled() {
  const link = document.createElement("link");
  const loaded = new Promise((resolve) => {
    link.onload = link.onerror = resolve;
  });
  Object.assign(link, { rel: "stylesheet", href: new URL("tab.css", import.meta.url) });
  document.head.append(link);
  return loaded;
}

await styled();
globalThis.AirflowPlugin = CustomJobTab;
