// What a hand does on the picture: click on a region, brush, box, eraser; with a pointer, or with keys and a cross.

import { model, on, change, choose, brushRadius, say } from "./model.js";
import { draw, drawing, placeOf } from "./view.js";

const canvas = document.getElementById("canvas");
const MOST_PLACES = 3900;

const valueNow = () => (model.tool === "eraser" ? "as found" : model.value);
const kindNow = () => (model.tool === "eraser" ? "brush" : model.tool);

function begin(event) {
  if (event.button !== 0 || !event.isPrimary) return;
  event.preventDefault();
  canvas.focus({ preventScroll: true });
  choose("playing", false);
  drawing.cross = null;
  const place = placeOf(event);
  if (model.tool === "click") return;
  canvas.setPointerCapture(event.pointerId);
  Object.assign(drawing, { kind: kindNow(), value: valueNow(), places: kindNow() === "box" ? [place, place] : [place] });
  draw();
}

function move(event) {
  drawing.hover = event.pointerType === "mouse" ? placeOf(event) : null;
  if (drawing.kind === "brush" && canvas.hasPointerCapture(event.pointerId)) {
    const places = event.getCoalescedEvents?.().map(placeOf) ?? [];
    for (const place of places.length ? places : [placeOf(event)]) add(place);
  } else if (drawing.kind === "box" && canvas.hasPointerCapture(event.pointerId)) {
    drawing.places = [drawing.places[0], placeOf(event)];
  }
  draw();
}

// Places closer than a quarter of the brush add nothing.
function add(place) {
  const [x, y] = drawing.places.at(-1);
  if (Math.hypot(place[0] - x, place[1] - y) < Math.max(0.5, brushRadius() / 4)) return;
  drawing.places.push(place);
  if (drawing.places.length >= MOST_PLACES) finish();
}

function finish() {
  const { kind, places, value } = drawing;
  drawing.kind = null;
  if (kind) send(kind, places, value);
}

function cancel() {
  drawing.kind = null;
  drawing.places = [];
  draw();
}

const rounded = places => places.map(place => place.map(number => Math.round(100 * number) / 100));

function send(kind, places, value) {
  const frame = model.frame;
  say("Saving");
  if (kind === "brush") {
    // What was painted stays in sight until the masks come.
    drawing.kind = "brush";
    return change("brush", { frame, places: rounded(places), radius: brushRadius(), value }).finally(cancel);
  }
  cancel();
  return change(kind, { frame, places: rounded(places), value });
}

canvas.addEventListener("pointerdown", begin);
canvas.addEventListener("pointermove", move);
canvas.addEventListener("pointerup", finish);
canvas.addEventListener("pointercancel", cancel);
canvas.addEventListener("click", event => {
  if (model.tool === "click" && event.detail) send("click", [placeOf(event)], valueNow());
});
canvas.addEventListener("pointerleave", () => { drawing.hover = null; draw(); });
canvas.addEventListener("blur", () => { drawing.cross = null; draw(); });

// The cross, for those without a pointer.
let corner = null;

canvas.addEventListener("keydown", event => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const [width, height] = model.state.size;
  if (event.shiftKey && steps[event.key]) {
    const far = Math.max(2, brushRadius() / 2), [dx, dy] = steps[event.key];
    const [x, y] = drawing.cross ?? [width / 2, height / 2];
    drawing.cross = [Math.min(Math.max(x + far * dx, 0.5), width - 0.5), Math.min(Math.max(y + far * dy, 0.5), height - 0.5)];
    draw();
  } else if (event.key === "Enter") {
    drawing.cross ??= [width / 2, height / 2];
    act(drawing.cross);
  } else if (event.key === "Escape") {
    corner = drawing.cross = null;
    cancel();
  } else {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
});

function act(place) {
  if (kindNow() !== "box") {
    drawing.places = [place];
    send(kindNow(), [place], valueNow());
  } else if (corner) {
    send("box", [corner, place], valueNow());
    corner = null;
  } else {
    corner = place;
    say("First corner; move the cross and press enter at the opposite one");
  }
}

on("choice", () => { corner = null; canvas.classList.toggle("roam", model.tool === "click"); });
on("frame", () => { corner = null; cancel(); });
