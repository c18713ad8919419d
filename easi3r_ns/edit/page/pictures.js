// Pictures and masks of frames, a few of them kept: 300 frames would not fit into the memory of a phone.

import { model, facts, count } from "./model.js";

const KEPT = 12;
const kept = new Map();

function remember(key, make) {
  if (!kept.has(key)) {
    const value = make();
    value.catch(() => kept.delete(key));
    kept.set(key, value);
    while (kept.size > 3 * KEPT) kept.delete(kept.keys().next().value);
  } else {
    const value = kept.get(key);
    kept.delete(key);
    kept.set(key, value);
  }
  return kept.get(key);
}

async function image(address) {
  const shown = new Image();
  shown.src = address;
  await shown.decode();
  return shown;
}

async function grey(address) {
  const shown = await image(address);
  const canvas = new OffscreenCanvas(shown.naturalWidth, shown.naturalHeight);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(shown, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  const values = new Uint8Array(canvas.width * canvas.height);
  for (let k = 0; k < values.length; k += 1) values[k] = pixels[4 * k];
  return values;
}

export const picture = frame => {
  const address = `picture/${frame}?r=${model.state.round}`;
  return remember(address, () => image(address));
};

const found = frame => {
  const address = `found/${frame}?r=${model.state.round}`;
  return remember(address, () => grey(address));
};

const marks = frame => {
  const address = `marks/${frame}?r=${model.state.round}&v=${facts(frame).version}`;
  return remember(address, () => grey(address));
};

// {picture, found, marks} of a frame; found: id of the object or 255, 0 where nothing moves.
export async function sheet(frame) {
  const [shown, one, two] = await Promise.all([picture(frame), found(frame), marks(frame)]);
  return { picture: shown, found: one, marks: two };
}

export function fetchAround(frame) {
  for (const near of [frame + 1, frame - 1, frame + 2]) {
    if (near >= 0 && near < count()) sheet(near).catch(() => {});
  }
}

export const thumb = frame => `thumb/${frame}?r=${model.state.round}&v=${facts(frame).version}`;
