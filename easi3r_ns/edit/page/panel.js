// Buttons, sliders and the facts of a frame.

import { model, on, change, choose, count, facts, longer, show, step, say } from "./model.js";
import { percent } from "./strip.js";
import { whenShown } from "./view.js";
import { startFollowing } from "./jobs.js";

const $ = id => document.getElementById(id);
const HINTS = {
  click: "Click on a region: a piece of a mask, or, where nothing is marked, what looks like one surface.",
  brush: "Paint over what the masks get wrong.",
  box: "Draw a box: all in it gets the same.",
  eraser: "Paint away corrections: the masks are there as they were found.",
};
const LEGENDS = {
  corrected: [["moves", "moves"]],
  found: [["moves", "moves, as found"]],
  changes: [["both", "moves, as found"], ["added", "moves, by hand"], ["removed", "stands still, by hand"]],
};

// A group of radio buttons: one stop of the tab key, arrows move in it.
function radios(id, key) {
  const group = $(id), buttons = [...group.querySelectorAll("[role=radio]")], data = { tools: "tool", values: "value", layers: "layer" }[id];
  const pick = button => choose(key, button.dataset[data]);
  for (const button of buttons) button.addEventListener("click", () => pick(button));
  group.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const next = buttons[(buttons.indexOf(event.target) + by + buttons.length) % buttons.length];
    pick(next);
    next.focus();
  });
  on("choice", () => {
    for (const button of buttons) {
      const own = button.dataset[data] === model[key];
      button.setAttribute("aria-checked", own);
      button.tabIndex = own ? 0 : -1;
    }
  });
}

function legend(layer) {
  const several = layer !== "changes" && model.state.objects.length > 1;
  if (several) return $("legend").replaceChildren("moves: each object in its colour of the list below; what else is added is vermilion");
  $("legend").replaceChildren(...LEGENDS[layer].map(([name, words]) => {
    const span = document.createElement("span"), swatch = document.createElement("span");
    swatch.className = `swatch ${name}`;
    span.append(swatch, words);
    return span;
  }));
}

function choices() {
  $("tool_hint").textContent = HINTS[model.tool];
  $("size").value = model.radius;
  $("size_is").textContent = `${Math.round(2 * model.radius / 1000 * longer())} px`;
  $("size_row").hidden = model.tool !== "brush" && model.tool !== "eraser";
  for (const button of $("values").children) button.disabled = model.tool === "eraser";
  $("opacity").value = model.opacity;
  $("opacity_is").textContent = `${model.opacity} %`;
  $("play").textContent = model.playing ? "Stop" : "Play";
  legend(model.layer);
}

function rows(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([name, value]) => {
    const term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = name;
    said.textContent = value;
    return [term, said];
  }));
}

function frame() {
  const own = facts();
  $("where").textContent = `frame ${model.frame + 1} of ${count()}, ${own.time.toFixed(2)} s`;
  $("frame_title").textContent = `Frame ${model.frame + 1}`;
  const pairs = [["moves", percent(own.share)]];
  if (own.corrected) pairs.push(["as found", percent(own.found)]);
  pairs.push(["score", own.score === null ? "none" : own.score.toFixed(2)]);
  rows($("facts"), pairs);
  $("exclude").setAttribute("aria-pressed", own.excluded);
  $("exclude").textContent = own.excluded ? "Excluded" : "Exclude";
  $("keyframe").setAttribute("aria-pressed", own.keyframe);
  $("exclude_hint").hidden = !model.state.frames.some(other => other.excluded);
  $("before").disabled = model.frame === 0;
  $("after").disabled = model.frame === count() - 1;
  $("between").disabled = !ends();
  steps();
}

function steps() {
  for (const name of ["undo", "redo"]) {
    const what = model.state[name];
    $(name).disabled = !what;
    $(name).title = what ? `${name === "undo" ? "Undo (z)" : "Redo (shift z)"}: ${what}` : `Nothing to ${name}`;
  }
}

// The nearest corrected frames before and after this one.
function ends() {
  const marked = model.state.frames.flatMap((own, k) => (own.corrected && k !== model.frame ? [k] : []));
  const before = marked.filter(k => k < model.frame).at(-1), after = marked.find(k => k > model.frame);
  return before === undefined || after === undefined ? null : [before, after];
}

let wasAsked = false;

export function ask(words) {
  $("ask_words").textContent = words;
  $("ask").showModal();
  return new Promise(done => {
    const end = answer => { $("ask").close(); done(answer); };
    $("ask_yes").onclick = () => end(true);
    $("ask_no").onclick = () => end(false);
    $("ask").oncancel = () => done(false);
  });
}

export async function fillBetween() {
  const found = ends();
  if (!found) return say("Correct a frame before this one and a frame after it first", true);
  const [one, other] = found.map(k => k + 1);
  const words = `Frames ${one + 1} to ${other - 1} get shapes between the corrections of frames ${one} and ${other}. `
    + "This can be undone, and is not asked again.";
  if (!wasAsked && !await ask(words)) return;
  wasAsked = true;
  await change("interpolate", { frame: model.frame });
}

export const toggle = (name, fact) => change("flag", { name, frame: model.frame, on: !facts()[fact] });
export const resizeBrush = by => choose("radius", Math.min(60, Math.max(1, Math.round(model.radius * (by > 0 ? 1.25 : 0.8) + by * 0.5))));
export const zoom = factor => choose("zoom", factor ? Math.min(8, Math.max(1, model.zoom * factor)) : 1);

export async function play() {
  choose("playing", !model.playing);
  while (model.playing) {
    const began = performance.now(), shown = whenShown();
    if (count() < 2) return choose("playing", false);
    show(model.frame + 1 < count() ? model.frame + 1 : 0);
    await Promise.race([shown, new Promise(done => setTimeout(done, 2000))]);
    await new Promise(done => setTimeout(done, Math.max(0, 120 - (performance.now() - began))));
  }
}

function objects() {
  $("objects_panel").hidden = !model.state.objects.length;
  $("objects").replaceChildren(...model.state.objects.map(own => {
    const item = document.createElement("li"), swatch = document.createElement("span"), name = document.createElement("span");
    const small = document.createElement("small");
    swatch.className = "swatch";
    swatch.style.background = model.state.objects.length > 1 ? own.colour : "#d55e00";
    name.className = "name";
    small.textContent = `frames ${own.first + 1} to ${own.last + 1}, up\u00a0to\u00a0${percent(own.share)}`;
    name.append(`Object ${own.id}`, small);
    item.append(swatch, name);
    for (const [words, value, title] of [["Drop", "still", "It stands still in all frames"], ["Keep", "as found", "As it was found in all frames"]]) {
      const button = document.createElement("button");
      button.textContent = words;
      button.title = title;
      button.setAttribute("aria-label", `${words} object ${own.id}: ${title}`);
      button.addEventListener("click", () => change("object", { object: own.id, value, frame: model.frame }));
      item.append(button);
    }
    return item;
  }));
}

function leftOut() {
  const names = model.state.left_out, most = 4;
  $("left_out").hidden = !names.length;
  const more = names.length > most ? ` and ${names.length - most} more` : "";
  $("left_out_words").textContent = `Left out when this dataset was made: ${names.slice(0, most).join("; ")}${more}.`;
}

async function takeBack() {
  const answer = await change("take_back");
  if (!answer) return;
  model.state.left_out = [];
  leftOut();
}

radios("tools", "tool");
radios("values", "value");
radios("layers", "layer");
const acts = {
  undo: () => step("undo"), redo: () => step("redo"), before: () => show(model.frame - 1), after: () => show(model.frame + 1),
  play, smaller: () => zoom(1 / 1.5), larger: () => zoom(1.5), fit: () => zoom(0), between: fillBetween, follow: startFollowing,
  exclude: () => toggle("excluded", "excluded"), keyframe: () => toggle("keyframes", "keyframe"), take_back: takeBack,
};
for (const [id, act] of Object.entries(acts)) $(id).addEventListener("click", act);
$("size").addEventListener("input", event => choose("radius", Number(event.target.value)));
$("opacity").addEventListener("input", event => choose("opacity", Number(event.target.value)));
on("choice", choices);
on("frame", frame);
on("changed", frame);
on("state", () => {
  $("title").textContent = model.state.title;
  document.title = `${model.state.title} - easi3r edit`;
  objects();
  leftOut();
});
on("words", ({ words, bad }) => {
  $("status").textContent = words;
  $("status").classList.toggle("bad", bad);
});
