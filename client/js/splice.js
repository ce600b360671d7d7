// Puts the JPEG of a mouth into the JPEG of a footage frame, without decoding either: the very bytes of the whole frame.
// The frames are baseline JPEGs with restart markers: independent segments, of which the patch replaces some.

const MCU = 16; // pixels: side of the smallest coding unit with 4:2:0 chroma
const RST0 = 0xd0, RST7 = 0xd7, EOI = 0xd9, SOS = 0xda, SOF0 = 0xc0, DRI = 0xdd;

/**
 * @param {Uint8Array} frame JPEG of the footage frame
 * @param {Uint8Array} scan the patch's entropy-coded data; its header would be the frame's
 * @param {number[]} box x, y, width, height of the patch in the frame, pixels
 * @returns {Uint8Array} JPEG of the whole frame
 */
export function splice(frame, scan, [x, y, width, height]) {
  const whole = layout(frame), step = MCU * whole.interval, bounds = segments(scan, 0);
  const columns = Math.ceil(width / step), rows = Math.ceil(height / MCU);
  if (x % step || y % MCU || bounds.length !== columns * rows + 1 || x + width > whole.width || y + height > whole.height)
    throw new RangeError("the patch is not of this frame");
  const perRow = Math.ceil(whole.width / step), last = whole.bounds.length - 2;
  const pieces = [];
  let at = 0;
  for (let row = 0; row < rows; row++) {
    const first = (y / MCU + row) * perRow + x / step, begin = bounds[row * columns];
    const piece = scan.slice(begin, bounds[(row + 1) * columns]);
    for (let column = 0; column < columns; column++) {
      const number = first + column; // markers are numbered cyclically through the frame
      piece[bounds[row * columns + column + 1] - begin - 1] = number === last ? EOI : RST0 + (number & 7);
    }
    pieces.push(frame.subarray(at, whole.bounds[first]), piece);
    at = whole.bounds[first + columns];
  }
  pieces.push(frame.subarray(at));
  const joined = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let offset = 0;
  for (const piece of pieces) {
    joined.set(piece, offset);
    offset += piece.length;
  }
  return joined;
}

/** Size and restart interval (MCUs) of a JPEG, and where its segments begin; the last one's end too. */
function layout(jpeg) {
  let at = 2, width = 0, height = 0, interval = 0;
  for (let marker = 0; marker !== SOS; ) {
    const length = (jpeg[at + 2] << 8) | jpeg[at + 3];
    marker = jpeg[at + 1];
    if (jpeg[at] !== 0xff || !(length >= 2)) throw new RangeError("this is no JPEG");
    if (marker === SOF0) {
      height = (jpeg[at + 5] << 8) | jpeg[at + 6];
      width = (jpeg[at + 7] << 8) | jpeg[at + 8];
    } else if (marker === DRI) interval = (jpeg[at + 4] << 8) | jpeg[at + 5];
    at += 2 + length;
  }
  if (!width || !height || !interval) throw new RangeError("the JPEG has no restart markers");
  const bounds = segments(jpeg, at), total = Math.ceil(width / (MCU * interval)) * Math.ceil(height / MCU);
  if (bounds.length !== total + 1) throw new RangeError(`the JPEG has ${bounds.length - 1} restart segments, not ${total}`);
  return { width, height, interval, bounds };
}

/** Where the segments begin in entropy-coded data from `at` on; the last one's end too. */
function segments(data, at) {
  const bounds = [at];
  for (at = data.indexOf(0xff, at); at >= 0 && at + 1 < data.length; at = data.indexOf(0xff, at + 1)) {
    const follower = data[at + 1]; // 0 where the 0xFF is data
    if ((follower >= RST0 && follower <= RST7) || follower === EOI) bounds.push(at + 2);
  }
  return bounds;
}
