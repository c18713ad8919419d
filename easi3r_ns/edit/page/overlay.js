// The masks over a picture, as pixels. Colours: Okabe and Ito, told apart by people of every kind of colour vision.

export const MOVES = 0, AS_FOUND = 128, STILL = 255;
const PALETTE = [[213, 94, 0], [0, 114, 178], [240, 228, 66], [204, 121, 167], [0, 158, 115], [86, 180, 233], [230, 159, 0]];
const ONE = PALETTE[0], BOTH = [217, 221, 226], ADDED = [86, 180, 233], REMOVED = [240, 228, 66];

const colourOf = (id, several) => (several && id > 0 && id < 255 ? PALETTE[(id - 1) % PALETTE.length] : ONE);
const hatched = (x, y) => (x + y) % 6 < 3;

// Class of every pixel: 0 nothing, else an entry of `colours`; [classes, colours].
function classes(sheet, layer, several, width) {
  const { found, marks } = sheet;
  const out = new Uint8Array(found.length), colours = [null], known = new Map();
  const entry = (colour, hatch = false) => {
    const key = `${colour}${hatch}`;
    if (!known.has(key)) { known.set(key, colours.length); colours.push({ colour, hatch }); }
    return known.get(key);
  };
  for (let k = 0; k < out.length; k += 1) {
    const was = found[k] > 0;
    const is = marks[k] === MOVES || (was && marks[k] !== STILL);
    if (layer === "found") { if (was) out[k] = entry(colourOf(found[k], several)); }
    else if (layer === "corrected") { if (is) out[k] = entry(colourOf(found[k], several)); }
    else if (marks[k] === MOVES) out[k] = entry(ADDED);
    else if (marks[k] === STILL) out[k] = entry(REMOVED, true);
    else if (was) out[k] = entry(BOTH);
  }
  return [out, colours];
}

// A canvas (width, height) of the masks: translucent, with opaque rims; hatched where a hand says that it stands still.
export function overlay(sheet, size, { layer, opacity, several }) {
  const [width, height] = size;
  const [own, colours] = classes(sheet, layer, several, width);
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(width, height);
  const inner = Math.round(2.55 * opacity), rim = opacity ? Math.min(255, inner + 110) : 0;
  for (let y = 0, k = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, k += 1) {
      if (!own[k]) continue;
      const { colour, hatch } = colours[own[k]];
      const edge = (x > 0 && own[k - 1] !== own[k]) || (x < width - 1 && own[k + 1] !== own[k])
        || (y > 0 && own[k - width] !== own[k]) || (y < height - 1 && own[k + width] !== own[k]);
      image.data.set(colour, 4 * k);
      image.data[4 * k + 3] = edge ? rim : hatch && !hatched(x, y) ? 0 : inner;
    }
  }
  pen.putImageData(image, 0, 0);
  return canvas;
}
