// Starts the page; keys.

import { model, choose, isSaving, reload, say, show, step, tell } from "./model.js";
import "./view.js";
import "./strip.js";
import "./tools.js";
import { fillBetween, play, resizeBrush, toggle, zoom } from "./panel.js";
import { startFollowing, watch } from "./jobs.js";
import "./reasons.js";

let hidden = null;

function hide() {
  if (hidden === null && model.opacity > 0) { hidden = model.opacity; choose("opacity", 0); }
  else { choose("opacity", hidden ?? 55); hidden = null; }
}

const KEYS = {
  " ": play,
  ArrowLeft: () => show(model.frame - 1), ArrowRight: () => show(model.frame + 1),
  PageUp: () => show(model.frame - 10), PageDown: () => show(model.frame + 10),
  Home: () => show(0), End: () => show(Infinity),
  r: () => choose("tool", "click"), b: () => choose("tool", "brush"), x: () => choose("tool", "box"), e: () => choose("tool", "eraser"),
  m: () => choose("value", "moves"), s: () => choose("value", "still"), f: () => choose("value", "as found"),
  "[": () => resizeBrush(-1), "]": () => resizeBrush(1),
  z: () => step("undo"), Z: () => step("redo"),
  a: startFollowing, i: fillBetween,
  q: () => toggle("excluded", "excluded"), k: () => toggle("keyframes", "keyframe"),
  d: () => choose("layer", model.layer === "changes" ? "corrected" : "changes"), h: hide,
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => zoom(0),
};

// A focused control keeps the keys that are its own.
function isTaken(event) {
  const { target, key } = event;
  if (target.closest("dialog")) return true;
  if (target.matches("input[type=range]")) return /^(Arrow|Page|Home|End)/.test(key);
  return target.matches("button, summary") && key === " ";
}

document.addEventListener("keydown", event => {
  if (!model.state || event.altKey || event.metaKey && !"zZyY".includes(event.key) || isTaken(event)) return;
  const control = event.ctrlKey || event.metaKey;
  let act = KEYS[event.key];
  if (control) act = { z: KEYS.z, Z: KEYS.Z, y: KEYS.Z }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// After a click with a pointer the keys belong to the page again.
document.addEventListener("click", event => {
  if (event.detail && document.activeElement?.matches("button")) document.activeElement.blur();
});

// Another window may have changed something meanwhile.
addEventListener("focus", () => { if (model.state && !isSaving()) reload().catch(error => say(error.message, true)); });

try {
  await reload();
  tell("choice");
  say(model.state.why_not ? `Every change is saved at once; not solved again: ${model.state.why_not}` : "Every change is saved at once");
  if (model.state.running) watch();
} catch (error) {
  say(error.message, true);
}
