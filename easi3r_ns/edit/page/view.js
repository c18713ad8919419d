// The picture of a frame with its masks, and what is being drawn on it.

import { model, on, facts, tell, brushRadius } from "./model.js";
import { sheet, fetchAround } from "./pictures.js";
import { overlay } from "./overlay.js";

const canvas = document.getElementById("canvas");
const frameOf = document.getElementById("sheet");
const pen = canvas.getContext("2d");
const INK = { moves: "#ff7a1a", still: "#ffffff", "as found": "#56b4e9" };

let shown = null;      // {frame, sheet, masks} that is drawn
let asked = 0;
export const drawing = { places: [], kind: null, value: null, cross: null, hover: null };

export async function refresh() {
  const mine = ++asked, frame = model.frame;
  let found;
  try {
    found = await sheet(frame);
  } catch {
    if (mine === asked) tell("words", { words: `frame ${frame + 1} cannot be shown: is easi3r edit still running?`, bad: true });
    return;
  }
  if (mine !== asked) return;
  shown = { frame, sheet: found, masks: masksOf(found) };
  resize();
  draw();
  canvas.dataset.frame = frame;
  canvas.dataset.version = facts(frame).version;
  tell("shown", frame);
  fetchAround(frame);
}

export const whenShown = () => new Promise(done => {
  const once = () => { if (!pending) return; pending = false; done(); };
  let pending = true;
  on("shown", once);
});

function masksOf(found) {
  const several = model.state.objects.length > 1;
  return overlay(found, model.state.size, { layer: model.layer, opacity: model.opacity, several });
}

export function repaint() {
  if (!shown) return;
  shown.masks = masksOf(shown.sheet);
  draw();
}

// Pixels of the canvas follow the picture; its size on the page follows the space and the zoom.
export function resize() {
  if (!shown) return;
  const { naturalWidth: width, naturalHeight: height } = shown.sheet.picture;
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const narrow = matchMedia("(max-width: 760px)").matches;
  const roomHigh = narrow ? 0.45 * innerHeight : frameOf.clientHeight;
  const fit = Math.min(frameOf.clientWidth / width, Math.max(roomHigh, 120) / height);
  frameOf.style.height = narrow ? `${Math.floor(fit * height) + 1}px` : "";
  canvas.style.width = `${Math.floor(fit * width * model.zoom)}px`;
  canvas.style.height = `${Math.floor(fit * height * model.zoom)}px`;
}

export function draw() {
  if (!shown) return;
  const scale = canvas.width / model.state.size[0];
  pen.imageSmoothingEnabled = true;
  pen.drawImage(shown.sheet.picture, 0, 0, canvas.width, canvas.height);
  if (model.opacity > 0) pen.drawImage(shown.masks, 0, 0, canvas.width, canvas.height);
  drawTool(scale);
}

function drawTool(scale) {
  const { kind, places, value, cross, hover } = drawing;
  pen.save();
  pen.lineCap = pen.lineJoin = "round";
  const thin = Math.max(1.5, canvas.width / (canvas.clientWidth || canvas.width) * 1.5);
  if (kind === "brush" && places.length) {
    pen.globalAlpha = 0.65;
    pen.strokeStyle = INK[value];
    pen.lineWidth = 2 * brushRadius() * scale;
    pen.beginPath();
    pen.moveTo(places[0][0] * scale, places[0][1] * scale);
    for (const [x, y] of places.length > 1 ? places : [places[0], places[0]]) pen.lineTo(x * scale, y * scale);
    pen.stroke();
  } else if (kind === "box" && places.length === 2) {
    const [[left, top], [right, bottom]] = places;
    pen.strokeStyle = INK[value];
    pen.lineWidth = 2 * thin;
    pen.strokeRect(left * scale, top * scale, (right - left) * scale, (bottom - top) * scale);
  }
  pen.globalAlpha = 1;
  if (hover && (model.tool === "brush" || model.tool === "eraser")) circle(hover, brushRadius() * scale, scale, thin);
  if (cross) {
    const [x, y] = cross.map(value => value * scale), arm = 9 * thin;
    for (const [ink, width] of [["#000", 3 * thin], ["#fff", thin]]) {
      pen.strokeStyle = ink;
      pen.lineWidth = width;
      pen.beginPath();
      pen.moveTo(x - arm, y); pen.lineTo(x + arm, y);
      pen.moveTo(x, y - arm); pen.lineTo(x, y + arm);
      pen.stroke();
    }
  }
  pen.restore();
}

function circle([x, y], radius, scale, thin) {
  for (const [ink, width] of [["#000", 2.5 * thin], ["#fff", thin]]) {
    pen.strokeStyle = ink;
    pen.lineWidth = width;
    pen.beginPath();
    pen.arc(x * scale, y * scale, radius, 0, 2 * Math.PI);
    pen.stroke();
  }
}

// Where an event points at, in pixels of the masks.
export function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  const [width, height] = model.state.size;
  return [(event.clientX - box.left) / box.width * width, (event.clientY - box.top) / box.height * height];
}

on("frame", refresh);
on("choice", () => { resize(); repaint(); });
on("changed", frames => { if (frames.includes(model.frame)) refresh(); });
new ResizeObserver(() => { resize(); draw(); }).observe(frameOf);
