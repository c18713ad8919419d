// Work that takes a while: its progress, and the two solutions that stand side by side afterwards.

import { get } from "./api.js";
import { model, on, change, reload, say } from "./model.js";

const $ = id => document.getElementById(id);
const OFTEN = 400;
let watching = false;

const time = seconds => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`);

export async function startFollowing() {
  if (await change("follow", { frame: model.frame })) watch();
}

async function solve() {
  if (await change("solve")) watch();
}

function show(job) {
  $("job").hidden = !job.running;
  const words = job.words.charAt(0).toUpperCase() + job.words.slice(1);
  $("job_words").textContent = words;
  const bar = $("job_bar");
  if (job.total) { bar.max = job.total; bar.value = job.done; } else { bar.removeAttribute("value"); }
  const steps = job.total && job.unit ? `${job.done} of ${job.total} ${job.unit}, ` : "";
  $("job_time").textContent = `${steps}${time(job.seconds)}`;
  for (const id of ["solve", "follow", "accept", "back"]) $(id).disabled = job.running || (id === "solve" && !canSolve());
}

const canSolve = () => !model.state.why_not && !model.state.solved;

export async function watch() {
  if (watching) return;
  watching = true;
  let job = null;
  try {
    do {
      job = await get("job");
      show(job);
      if (job.running) await new Promise(done => setTimeout(done, OFTEN));
    } while (job.running);
    await reload();
  } catch (error) {
    say(error.message, true);
    return;
  } finally {
    watching = false;
  }
  if (job.error) say(job.error, true);
  else if (job.name === "follow") say(job.result.frames ? `Saved: ${job.result.what}, ${job.result.frames} frames` : "It was found in no other frame");
  else if (job.name === "solve") { say("Solved again: accept the new cameras, or go back"); $("compare").focus(); }
}

function compare() {
  const { solved } = model.state;
  $("compare").hidden = !solved;
  $("solve").disabled = !canSolve() || model.state.running;
  $("solve").title = model.state.why_not || "Compute cameras and depth again with the corrections";
  if (!solved) return;
  for (const side of ["before", "after"]) $(`side_${side}`).src = `${side}.svg?t=${Date.now()}`;
  $("figures").replaceChildren(...solved.figures.map(([name, before, after]) => {
    const row = document.createElement("tr"), head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head, ...[before, after].map(value => {
      const cell = document.createElement("td");
      cell.textContent = value;
      return cell;
    }));
    return row;
  }));
  $("notes").replaceChildren(...solved.notes.map(words => {
    const item = document.createElement("li");
    item.textContent = words;
    return item;
  }));
}

async function end(name, words) {
  for (const id of ["accept", "back"]) $(id).disabled = true;
  say("Saving");
  if (await change(name)) {
    await reload();
    say(words);
  }
  for (const id of ["accept", "back"]) $(id).disabled = false;
}

$("solve").addEventListener("click", solve);
$("stop").addEventListener("click", () => change("stop"));
$("accept").addEventListener("click", () => end("accept", "The new cameras are the dataset's now"));
$("back").addEventListener("click", () => end("back", "The dataset is as it was; the corrections stay"));
on("state", compare);
