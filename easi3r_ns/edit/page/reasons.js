// What speaks against the dataset, beside the frames that cause it, with the command that helps.

import { get } from "./api.js";
import { model, on, change, show, say } from "./model.js";

const $ = id => document.getElementById(id);
let round = null;

function element(name, words, className = "") {
  const made = document.createElement(name);
  made.textContent = words;
  made.className = className;
  return made;
}

function command(step) {
  const copy = element("button", "Copy");
  copy.setAttribute("aria-label", `Copy the command ${step.command}`);
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(step.command);
      say("Copied");
    } catch {
      say("The browser does not allow to copy: select the command", true);
    }
  });
  const box = element("code", step.command);
  box.tabIndex = 0;
  return [box, copy];
}

function exclude(frames) {
  const button = element("button", frames.length === 1 ? "Exclude this frame" : "Exclude these frames");
  button.addEventListener("click", () => frames.forEach(frame => change("flag", { name: "excluded", frame, on: true })));
  return button;
}

function item(reason) {
  const made = document.createElement("li");
  made.append(element("p", reason.words));
  if (reason.frames.length) {
    const frames = element("div", "Frames ", "frames");
    for (const frame of reason.frames) {
      const button = element("button", frame + 1);
      button.setAttribute("aria-label", `Show frame ${frame + 1}`);
      button.addEventListener("click", () => show(frame));
      frames.append(button);
    }
    made.append(frames);
  }
  if (reason.exclude) made.append(exclude(reason.frames));
  if (reason.remedy) made.append(element("small", reason.remedy));
  if (reason.step) made.append(...command(reason.step));
  if (reason.step?.note) made.append(element("small", reason.step.note));
  return made;
}

async function load() {
  if (round === model.state.round) return;
  round = model.state.round;
  let found;
  try {
    found = await get("verdict");
  } catch (error) {
    $("verdict").textContent = error.message;
    return;
  }
  $("reasons_panel").hidden = !found;
  if (!found) return;
  $("verdict").className = `level${found.level}`;
  $("verdict").textContent = found.words;
  $("reasons").replaceChildren(...found.reasons.map(item));
}

on("state", load);
