// The frames as a strip: small pictures are asked for when they come near to the eye.

import { model, on, show, facts, count } from "./model.js";
import { thumb } from "./pictures.js";

const strip = document.getElementById("strip");
let buttons = [];

const near = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    target.dataset.near = isIntersecting;
    if (isIntersecting) load(target);
  }
}, { root: strip, rootMargin: "0px 600px" });

function load(button) {
  const frame = Number(button.dataset.frame), image = button.querySelector("img"), address = thumb(frame);
  if (image.getAttribute("src") !== address) image.src = address;
}

function make(frame) {
  const button = document.createElement("button");
  button.className = "thumb";
  button.dataset.frame = frame;
  const holder = document.createElement("span"), image = document.createElement("img");
  const line = document.createElement("span"), marks = document.createElement("span");
  const [width, height] = model.state.size;
  holder.className = "frame";
  image.alt = "";
  image.width = Math.round(62 * width / height);
  image.height = 62;
  line.className = "line";
  marks.className = "marks";
  holder.append(image);
  button.append(holder, marks, line);
  button.addEventListener("click", () => show(frame));
  near.observe(button);
  return button;
}

export const percent = share => (share > 0 && share < 0.01 ? "<\u00a01\u00a0%" : `${Math.round(100 * share)}\u00a0%`);

function tag(words, title) {
  const span = document.createElement("span");
  span.textContent = words;
  span.title = title;
  return span;
}

function update(frame) {
  const button = buttons[frame], { share, score, excluded, keyframe, corrected } = facts(frame);
  const said = [`Frame ${frame + 1}`, `${percent(share)} moves`];
  if (score !== null) said.push(`score ${score.toFixed(2)}`);
  if (corrected) said.push("corrected");
  if (excluded) said.push("excluded");
  if (keyframe) said.push("keyframe");
  button.setAttribute("aria-label", said.join(", "));
  button.title = said.join(", ");
  button.classList.toggle("excluded", excluded);
  const number = document.createElement("b"), values = document.createElement("span");
  number.textContent = frame + 1;
  values.textContent = percent(share) + (score === null ? "" : ` \u00b7 ${score.toFixed(2)}`);
  button.querySelector(".line").replaceChildren(number, values);
  const tags = [];
  if (corrected) tags.push(tag("\u270e", "corrected"));
  if (keyframe) tags.push(tag("\u2605", "keyframe"));
  button.querySelector(".marks").replaceChildren(...tags);
  if (button.dataset.near === "true") load(button);
}

let built = null;

// Anew only where there are other frames: the strip stays where it was scrolled to.
function rebuild() {
  const now = `${model.state.round} ${count()}`;
  if (built === now) return buttons.forEach((_, frame) => update(frame));
  built = now;
  near.disconnect();
  buttons = Array.from({ length: count() }, (_, frame) => make(frame));
  strip.replaceChildren(...buttons);
  buttons.forEach((_, frame) => update(frame));
}

function point() {
  buttons.forEach((button, frame) => button.setAttribute("aria-current", frame === model.frame));
  const button = buttons[model.frame], left = button.offsetLeft - strip.offsetLeft;
  const out = left < strip.scrollLeft + 40 || left + button.offsetWidth > strip.scrollLeft + strip.clientWidth - 40;
  if (out) strip.scrollTo({ left: left - (strip.clientWidth - button.offsetWidth) / 2 });
}

on("state", rebuild);
on("frame", point);
on("changed", frames => frames.forEach(update));
