// What the page knows: the state of the server, the frame that is shown, and how. Parts of the page listen to changes.

import { get, post } from "./api.js";

export const model = {
  state: null,        // see Desk.state
  frame: 0,           // number of the frame that is shown, from 0
  tool: "click",      // click, brush, box, eraser
  value: "still",     // moves, still, as found
  radius: 12,         // of the brush, in thousandths of the picture's longer side
  layer: "corrected", // corrected, found, changes
  opacity: 55,        // percent
  zoom: 1,            // 1: the whole picture
  playing: false,
};

const listeners = new Map();

export function on(name, listener) {
  listeners.set(name, [...(listeners.get(name) ?? []), listener]);
}

export function tell(name, detail) {
  for (const listener of listeners.get(name) ?? []) listener(detail);
}

export const facts = (frame = model.frame) => model.state.frames[frame];
export const count = () => model.state.frames.length;
export const longer = () => Math.max(...model.state.size);
export const brushRadius = () => model.radius / 1000 * longer();

export async function reload() {
  model.state = await get("state");
  model.frame = Math.min(model.frame, count() - 1);
  tell("state");
  tell("frame");
}

export function show(frame) {
  const next = Math.min(Math.max(frame, 0), count() - 1);
  if (next === model.frame) return;
  model.frame = next;
  tell("frame");
}

export function choose(name, value) {
  model[name] = value;
  tell("choice");
}

export function say(words, bad = false) {
  tell("words", { words, bad });
}

// Changes go to the server one after the other: each is kept before the next is sent.
let last = Promise.resolve();
let waiting = 0;

export function change(name, body = {}) {
  countSaving(1);
  const mine = last.then(() => post(name, body)).then(taken, failed).finally(() => countSaving(-1));
  last = mine.then(() => {}, () => {});
  return mine;
}

function countSaving(by) {
  waiting += by;
  document.body.setAttribute("aria-busy", waiting > 0);
}

export const isSaving = () => waiting > 0;

function taken(answer) {
  if (answer.changed === undefined) return answer;
  for (const [frame, facts] of Object.entries(answer.changed)) model.state.frames[frame] = facts;
  model.state.undo = answer.undo;
  model.state.redo = answer.redo;
  tell("changed", Object.keys(answer.changed).map(Number));
  if (answer.what) {
    const many = Object.keys(answer.changed).length;
    say(`Saved: ${answer.what}${many > 1 ? `, ${many} frames` : ""}`);
  } else {
    say("Nothing to change");
  }
  return answer;
}

function failed(error) {
  say(error.message, true);
  tell("refused");
  return null;
}

export async function step(name) {
  const answer = await change(name);
  if (answer?.what) {
    say(`${name === "undo" ? "Undone" : "Done again"}: ${answer.what}`);
    show(answer.show);
  }
}
