// Airflow's own REST API, asked by the user's own session; and the clock of what is asked again and again.

import { isDocument, isTerminal, newer, ownerOf, rowOf, stateOf } from "./model.js";

const { useEffect, useState } = globalThis.React;

const EVERY = 2000, EVERY_RUN = 5000, LONGEST = 30000, ROWS_EVERY = 10000, PAGE = 100;
const PREFIX = "custom_job", WANTED = ["job", "ref", "replicas", "usage", "plan"];
const ENDED_TASK = ["success", "failed", "skipped", "upstream_failed", "removed"];

export class ApiError extends Error {
  constructor(status) {
    super(status ? `Airflow answered with ${status}` : "Airflow does not answer");
    this.status = status;
  }
  /** Asking again would not change the answer. */
  get isFinal() {
    return [401, 403].includes(this.status);
  }
}

/** Below the path of [api] base_url, which Airflow gives its page as the base of all addresses. */
async function get(path, signal) {
  let answer;
  try {
    answer = await fetch(new URL(`api/v2/${path}`, document.baseURI), {
      signal, credentials: "same-origin", headers: { Accept: "application/json" },
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(0);
  }
  if (answer.status === 404) return undefined;
  if (!answer.ok) throw new ApiError(answer.status);
  return answer.json();
}

const part = encodeURIComponent;
const runPath = ({ dagId, runId }) => `dags/${part(dagId)}/dagRuns/${part(runId)}`;
const keyOf = (name) => (name === "job" ? PREFIX : `${PREFIX}_${name}`);

async function xcom({ dagId, runId, taskId, mapIndex }, key, signal) {
  const path = `${runPath({ dagId, runId })}/taskInstances/${part(taskId)}/xcomEntries/${key}?map_index=${mapIndex}`;
  return (await get(path, signal))?.value;
}

/** The XComs of the job of one task: only what has changed is read again.
 *  @param before what this gave last */
async function loadXComs(at, before, signal) {
  const path = `${runPath(at)}/taskInstances/${part(at.taskId)}/xcomEntries`;
  const listed = await get(`${path}?map_index=${at.mapIndex}&xcom_key_prefix_pattern=${PREFIX}&limit=${PAGE}`, signal);
  const stamps = Object.fromEntries((listed?.xcom_entries ?? []).map((entry) => [entry.key, entry.timestamp]));
  const values = {};
  let changed = false;
  await Promise.all(WANTED.filter((name) => keyOf(name) in stamps).map(async (name) => {
    const key = keyOf(name), old = before?.values[name];
    if (old !== undefined && before.stamps[key] === stamps[key]) {
      values[name] = old;
      return;
    }
    changed = true;
    const value = newer(await xcom(at, key, signal), old);
    if (value !== undefined) values[name] = value;
  }));
  const isSame = before && !changed && Object.keys(before.values).length === Object.keys(values).length;
  return isSame ? before : { stamps, values };
}

/** Every job of a run: where its task is, when it was told last. */
async function loadOwners(at, signal) {
  const path = `${runPath(at)}/taskInstances/~/xcomEntries?xcom_key=${PREFIX}&limit=${PAGE}`;
  const found = await get(path, signal);
  return {
    entries: (found?.xcom_entries ?? []).map(({ task_id, map_index, timestamp }) => ({
      taskId: task_id, mapIndex: map_index, timestamp,
    })),
    total: found?.total_entries ?? 0,
  };
}

/** The rows of a group, by the replica or pool that they are of. In a group over several jobs a row begins with its job's number. */
async function loadRows(at, group, signal) {
  const rows = new Map(), prefix = at.mapIndex < 0 ? "" : `${at.mapIndex}/`;
  for (let offset = 0, total = 1; offset < total; offset += PAGE) {
    const path = `${runPath(at)}/taskInstances?task_group_id=${part(group)}&limit=${PAGE}&offset=${offset}`;
    const found = await get(path, signal);
    total = found?.total_entries ?? 0;
    for (const ti of found?.task_instances ?? []) {
      if (ti.operator_name === "ReplicaRowOperator" && ti.rendered_map_index?.startsWith(prefix)) {
        rows.set(ti.rendered_map_index.slice(prefix.length), { ...at, taskId: ti.task_id, mapIndex: ti.map_index });
      }
    }
  }
  return rows;
}

async function taskInstance(at, signal) {
  const mapped = at.mapIndex < 0 ? "" : `/${at.mapIndex}`;
  return get(`${runPath(at)}/taskInstances/${part(at.taskId)}${mapped}`, signal);
}

/** What a task instance's tab shows: {at, xcoms, rows, replica, none, over}.
 *  A row of a group shows the job of its group. */
async function loadTask(page, before, signal) {
  let at = before?.at ?? page, replica = before?.replica;
  let xcoms = await loadXComs(at, before?.xcoms, signal);
  let ti;
  if (!xcoms.values.job) {
    ti = await taskInstance(page, signal);
    const owner = isOurs(ti) ? ownerOf(page.taskId, (await loadOwners(page, signal)).entries) : undefined;
    if (owner && owner.taskId !== at.taskId) {
      const row = ti.operator_name === "ReplicaRowOperator" ? rowOf(ti.rendered_map_index ?? "") : undefined;
      at = { ...page, taskId: owner.taskId, mapIndex: owner.isMapped ? row?.job ?? page.mapIndex : -1 };
      replica = row?.replica ?? "";
      xcoms = await loadXComs(at, undefined, signal);
    }
  }
  if (!xcoms.values.job) {
    const expected = isOurs(ti);
    return { at, none: expected ? "not yet" : "never", over: !expected || ENDED_TASK.includes(ti?.state) };
  }
  const rows = await rowsOf(at, before, xcoms, signal);
  const over = isOver(xcoms.values.job) && before?.xcoms === xcoms;
  return { at, xcoms, rows, replica, over };
}

/** Rows are mapped when the group's plan is known: they are looked for until there is one for each pool. */
async function rowsOf(at, before, xcoms, signal) {
  if (!at.taskId.endsWith(".run")) return undefined;
  const known = before?.rows;
  const isEnough = known?.found.size && (known.at > Date.now() - ROWS_EVERY || isOver(xcoms.values.job));
  if (isEnough) return known;
  const found = await loadRows(at, at.taskId.slice(0, -".run".length), signal);
  return { found, at: known?.found.size === found.size ? Infinity : Date.now() };
}

const isOurs = (ti) => /CustomJob|ReplicaRow/.test(ti?.operator_name ?? "");
const isOver = (job) => isDocument(job) && isTerminal(stateOf(job));

/** What a run's tab shows: {jobs: [{at, job}], total, over}. */
async function loadRun(page, before, signal) {
  const run = await get(runPath(page), signal);
  const owners = await loadOwners(page, signal);
  const known = new Map((before?.jobs ?? []).map((one) => [`${one.at.taskId} ${one.at.mapIndex}`, one]));
  const jobs = [];
  for (let first = 0; first < owners.entries.length; first += 8) { // a sweep may have many
    jobs.push(...await Promise.all(owners.entries.slice(first, first + 8).map(async ({ timestamp, ...task }) => {
      const old = known.get(`${task.taskId} ${task.mapIndex}`);
      if (old?.timestamp === timestamp) return old;
      const at = { ...page, ...task };
      return { at, timestamp, job: newer(await xcom(at, PREFIX, signal), old?.job) };
    })));
  }
  const over = ["success", "failed"].includes(run?.state) && jobs.every(({ job }) => isOver(job));
  return { jobs: jobs.filter(({ job }) => isDocument(job)), total: owners.total, over };
}

/** Asks again and again while the page is visible and the answer can still change.
 *  @returns {answer, error, now} */
function usePolled(load, page, every) {
  const [shown, show] = useState({ now: Date.now() });
  useEffect(() => {
    const stop = new AbortController();
    let timer, answer, pause = every, isBusy = false;
    async function turn() {
      if (isBusy || document.hidden) return;
      isBusy = true;
      clearTimeout(timer);
      try {
        answer = await load(page, answer, stop.signal);
        pause = answer.over ? Infinity : every;
        show({ answer, now: Date.now() });
      } catch (error) {
        if (stop.signal.aborted) return;
        if (!(error instanceof ApiError)) console.error("customjob:", error);
        pause = error.isFinal ? Infinity : Math.min(2 * pause, LONGEST);
        show({ answer: error.isFinal ? undefined : answer, error, now: Date.now() });
      } finally {
        isBusy = false;
      }
      if (!stop.signal.aborted && pause < Infinity) timer = setTimeout(turn, pause);
    }
    const onVisible = () => void turn(); // also once it is over: the task may have been cleared
    document.addEventListener("visibilitychange", onVisible);
    void turn();
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisible);
    };
  }, [page.dagId, page.runId, page.taskId, page.mapIndex]);
  return shown;
}

export const useTask = (page) => usePolled(loadTask, page, EVERY);
export const useRun = (page) => usePolled(loadRun, page, EVERY_RUN);
