// What the tab shows, made of the XComs of a task. Pure: no page, no network, no clock but the one it is given.
// The XComs' forms are those of airflow_customjob/task/xcoms.py, usage.py and provenance.py.

const TERMINAL = ["SUCCEEDED", "FAILED", "CANCELLED", "PAUSED", "EXPIRED", "PARTIALLY_SUCCEEDED"];
const LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
const SIGNALLED = [130, 137, 143];

/** What a replica is, in the order in which people want to see them. */
export const KINDS = ["failed", "lost", "waiting", "created", "running", "stopped", "succeeded"];

export const stateOf = (custom_job) => String(custom_job.state ?? "JOB_STATE_UNSPECIFIED").replace("JOB_STATE_", "");
export const isTerminal = (state) => TERMINAL.includes(state);

/** Of two values of one key, the one that is to be believed: a try that is being stopped may have written last. */
export function newer(value, other) {
  if (!other || !isDocument(value)) return value;
  const older = value.generation < other.generation ||
    (value.generation === other.generation && value.revision < other.revision);
  return older ? other : value;
}

/** A custom XCom backend may have put something else in its place: the name of a file. */
export const isDocument = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** @param xcoms values by key, without the prefix custom_job_: job, ref, replicas, usage, plan
 *  @param now milliseconds since the epoch */
export function jobOf({ job, ref, replicas, usage, plan }, now) {
  const state = stateOf(job);
  const created = millis(job.createTime), ended = millis(job.endTime);
  const same = (other) => (isDocument(other) && other.generation === job.generation ? other : undefined);
  const until = ended ?? Math.max(now, created ?? now);
  const shape = {
    id: String(job.name ?? "").split("/").pop(),
    displayName: job.displayName ?? "",
    state, terminal: isTerminal(state), created, started: millis(job.startTime), ended, until,
    generation: job.generation, attempt: job.attempt,
    error: job.error?.message ?? "",
    message: isTerminal(state) ? "" : job.message ?? "",
    backend: same(plan)?.backend ?? ref?.backend?.name ?? "",
    output: job.jobSpec?.baseOutputDirectory?.outputUriPrefix ?? "",
    provenance: same(plan)?.provenance ?? [],
    notes: same(plan)?.notes ?? [],
  };
  shape.states = statesOf(job, shape);
  const rows = replicasOf(same(replicas), shape, usageOf(same(usage)));
  shape.pools = poolsOf(same(plan)?.pools ?? poolsOfSpec(job), rows);
  shape.replicas = shape.pools.flatMap((pool) => pool.replicas);
  shape.counts = countsOf(shape.replicas);
  return shape;
}

function statesOf(job, { until, terminal }) {
  const entries = job.states ?? [];
  return entries.map(({ state, attempt, at }, index) => {
    const to = entries[index + 1]?.at ?? (terminal ? at : until);
    return { state: state.replace("JOB_STATE_", ""), attempt, from: at, to: Math.max(at, to) };
  });
}

function replicasOf(document, job, usage) {
  const rows = new Map(); // later incarnations come later
  (document?.replica ?? []).forEach((name, i) => {
    const at = (after) => (after === null || after === undefined ? undefined : (document.since + after) * 1000);
    rows.set(name, {
      name,
      phase: document.phases[document.phase[i]],
      exitCode: document.exit_code[i],
      reason: document.reasons[document.reason[i]],
      node: document.nodes[document.node[i]],
      restarts: document.attempt[i] + document.restart[i],
      started: at(document.started_after[i]),
      finished: at(document.finished_after[i]),
      usage: usage.get(name),
    });
  });
  const first = firstToFail([...rows.values()], job);
  for (const row of rows.values()) {
    row.kind = kindOf(row, job, row === first);
    row.until = row.finished ?? (row.started === undefined ? undefined : Math.max(row.started, job.until));
  }
  return rows;
}

function firstToFail(rows, job) {
  if (job.state !== "FAILED") return undefined;
  const failed = rows.filter((row) => row.phase === "exited" && row.exitCode);
  return failed.sort((a, b) => (a.finished ?? Infinity) - (b.finished ?? Infinity))[0];
}

/** Whoever still ran when the job ended was stopped; a signal after that end is no failure of its own. */
function kindOf({ phase, exitCode, reason }, job, isFirstToFail) {
  if (phase === "exited" && exitCode === 0) return "succeeded";
  if (phase === "exited") {
    const stopped = job.terminal && SIGNALLED.includes(exitCode) && reason !== "OOMKilled" && !isFirstToFail;
    return stopped ? "stopped" : "failed";
  }
  return job.terminal && phase !== "lost" ? "stopped" : phase;
}

function usageOf(document) {
  const found = new Map();
  if (!document) return found;
  const times = document.after.map((after) => (document.since + after) * 1000);
  const series = (key, i) => {
    const peak = document[`${key}_peak`];
    const values = [...document[key][i]].map((level) => (level === "." ? null : (LEVELS.indexOf(level) / 63) * peak));
    return { times, values, peak, latest: document[`${key}_latest`][i] };
  };
  document.replica.forEach((name, i) => found.set(name, { cpus: series("cpus", i), memory: series("memory_mib", i) }));
  return found;
}

function poolsOfSpec(job) {
  return (job.jobSpec?.workerPoolSpecs ?? []).map((pool, index) => ({
    name: `workerpool${index}`,
    replicas: Number(pool.replicaCount ?? 0),
    image: pool.containerSpec?.imageUri ?? pool.pythonPackageSpec?.executorImageUri ?? "",
    machine: pool.machineSpec?.machineType ?? "",
    gpus: Number(pool.machineSpec?.acceleratorCount ?? 0),
    gpu_type: pool.machineSpec?.acceleratorType ?? "",
  })).filter((pool) => pool.replicas);
}

/** Each pool with all of its replicas; those that do not exist yet are "created" without a start. */
function poolsOf(pools, rows) {
  return pools.map((pool) => {
    const replicas = Array.from({ length: pool.replicas }, (_, index) => {
      const name = `${pool.name}-${index}`;
      return { ...(rows.get(name) ?? { name, phase: "", kind: "created", restarts: 0 }), pool: pool.name, index };
    });
    return { ...pool, count: pool.replicas, replicas, counts: countsOf(replicas) };
  });
}

function countsOf(replicas) {
  const counts = KINDS.map((kind) => [kind, replicas.filter((replica) => replica.kind === kind).length]);
  return counts.filter(([, count]) => count);
}

/** The group of tasks whose job a task belongs to: its task "run" is the owner, {taskId, isMapped}.
 *  @param owners {taskId, mapIndex} of the run's tasks that have a job */
export function ownerOf(taskId, owners) {
  const groups = owners.map((one) => one.taskId).filter((id) => id.endsWith(".run")).map((id) => id.slice(0, -"run".length));
  const mine = groups.filter((group) => taskId.startsWith(group)).sort((a, b) => b.length - a.length);
  if (!mine.length) return undefined;
  const owner = `${mine[0]}run`;
  return { taskId: owner, isMapped: owners.some((one) => one.taskId === owner && one.mapIndex >= 0) };
}

/** Which job's which replica a row is of: "2/workerpool1-3", or "workerpool1-3" in a group of one job. */
export function rowOf(label) {
  const [, job, replica] = /^(?:(\d+)\/)?(.*)$/.exec(label);
  return { job: job === undefined ? undefined : Number(job), replica };
}

/** "4.2s", "3m05s", "2h03m", "7d0h", as the command line writes them. */
export function duration(milliseconds) {
  const seconds = Math.max(0, milliseconds / 1000), whole = Math.round(seconds);
  if (seconds < 10) return `${Number(seconds.toFixed(1))}s`;
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d${Math.floor((whole % 86400) / 3600)}h`;
}

export const cpus = (value) => (value >= 10 ? value.toFixed(0) : value.toFixed(2));
export const memory = (mib) => (mib >= 1024 ? `${(mib / 1024).toFixed(1)} GiB` : `${Math.round(mib)} MiB`);
export const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false });
export const dateAndClock = (at) => new Date(at).toLocaleString([], { hour12: false });

function millis(time) {
  return time ? Date.parse(time) : undefined;
}
