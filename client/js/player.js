// Sound and pictures on one clock: the audio clock. A picture is drawn when the sound that came with it is heard.

import { splice } from "./splice.js";

const SOUND_RATE = 16000; // a second: what the server hears, and a third of the bytes of 48000
const FIRST_AHEAD_S = 0.1, MOST_AHEAD_S = 0.5; // how long a frame waits here, to even out its journey
const STEP_S = 0.04;
const SCHEDULE_S = 0.01; // sound must be handed over so long before it begins
const EARLY_S = 0.008; // half a refresh of the screen: a picture is drawn at the refresh nearest to its time
const LATE_S = 0.04; // a talking picture that is later than this is left out
const CALM_FRAMES = 250; // so many frames without a late one, and the wait may shrink

function newContext() {
  try {
    return new AudioContext({ latencyHint: "interactive", sampleRate: SOUND_RATE });
  } catch {
    return new AudioContext({ latencyHint: "interactive" }); // older browsers have the device's own rate only
  }
}

export class Player {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./footage.js").Footage} footage what idle frames show, and patches are pasted on
   * @param {(drawn: {frame, offset, ahead, skipped}) => void} onDrawn after each picture: how long after its sound began
   *     to be heard (s; null if sound is not running), how long frames wait here (s), and talking pictures left out
   *     since the last connection
   */
  constructor(canvas, footage, onDrawn) {
    this.canvas = canvas;
    this.footage = footage;
    this.picture = canvas.getContext("2d", { alpha: false });
    this.onDrawn = onDrawn;
    this.context = newContext();
    this.volume = new GainNode(this.context);
    this.volume.connect(this.context.destination);
    this.context.onstatechange = () => this.restart();
    const { sampleRate } = this.context;
    this.soundRate = sampleRate <= 96000 && sampleRate % 25 === 0 ? sampleRate : 48000;
    this.ahead = FIRST_AHEAD_S;
    this.fps = 25;
    this.restart();
    this.drawing = requestAnimationFrame(() => this.#draw());
  }

  /** End: the sound device is given back. */
  close() {
    cancelAnimationFrame(this.drawing);
    this.restart();
    this.context.onstatechange = null;
    this.context.close();
  }

  /** Let sound begin; browsers want a click or a key before. */
  resume() {
    if (this.context.state !== "running") this.context.resume();
  }

  /** Play sound or not; the clock runs all the same. */
  set muted(muted) {
    this.volume.gain.value = muted ? 0 : 1;
  }

  /** Another connection or another clock: frames begin anew. */
  restart() {
    this.flush();
    this.queue?.forEach((item) => item.bitmap?.close());
    this.queue = []; // {frame, at, bitmap}; in the order of showing
    this.start = null; // when frame 0 would be heard, s
    this.skipped = 0;
    this.slow = false; // a picture was not ready in time
    this.#steady();
  }

  /** Drop all talking frames and their sound, at once. */
  flush() {
    this.queue = this.queue?.filter((item) => !item.frame.speaking || item.bitmap?.close());
    if (this.turn) {
      const { turn, context } = this;
      turn.gain.setTargetAtTime(0, context.currentTime, 0.004); // no click
      setTimeout(() => turn.disconnect(), 60);
    }
    this.turn = new GainNode(this.context); // what is on its way to the loudspeaker hangs on the old one
    this.turn.connect(this.volume);
  }

  /** Take a frame: its sound is scheduled and its picture decoded. */
  push(frame) {
    const at = this.#timeOf(frame);
    if (frame.sound.length && this.#sounding) this.#play(frame.sound, at);
    this.queue = this.queue.filter((item) => item.at > at - 1 || item.bitmap?.close());
    if (document.hidden) return; // nothing is drawn there
    const item = { frame, at, bitmap: null };
    this.queue.push(item);
    if (frame.leftOut) return;
    this.#decode(frame).then(
      (bitmap) => (this.queue.includes(item) ? (item.bitmap = bitmap) : bitmap?.close()),
      () => {}, // a broken picture: the one before stays
    );
  }

  /** The browser decodes beside the main thread. */
  async #decode({ footage, patch, whole }) {
    const plain = whole ?? this.footage.get(footage);
    return createImageBitmap(new Blob([patch ? splice(plain, patch.scan, patch.box) : plain], { type: "image/jpeg" }));
  }

  /** Talking frames that were not drawn yet. */
  get waiting() {
    return this.queue.filter((item) => item.frame.speaking).length;
  }

  get #sounding() {
    return this.context.state === "running";
  }

  /** The time of what is written now, on the clock that rules. */
  #written() {
    return this.#sounding ? this.context.currentTime : performance.now() / 1000;
  }

  /** The time of what is heard now. */
  heard() {
    if (!this.#sounding) return performance.now() / 1000;
    const written = this.context.currentTime;
    const { contextTime, performanceTime } = this.context.getOutputTimestamp?.() ?? {};
    const heard = contextTime + (performance.now() - performanceTime) / 1000;
    if (contextTime > 0 && Math.abs(written - heard) < 1) return heard;
    return written - (this.context.outputLatency || this.context.baseLatency || 0);
  }

  /** When a frame's sound is to begin. A late frame moves all that follow, and lets them wait longer. */
  #timeOf(frame) {
    const now = this.#written(), place = frame.index / this.fps;
    if (this.start === null) this.#begin(now + this.ahead - place);
    let spare = this.start + place - now;
    if (spare < SCHEDULE_S) {
      this.ahead = Math.min(this.ahead + STEP_S, MOST_AHEAD_S);
      this.#begin(now + this.ahead - place);
      spare = this.ahead;
    } else if (this.slow && !frame.speaking) {
      this.ahead = Math.min(this.ahead + STEP_S, MOST_AHEAD_S);
      this.#begin(this.start + STEP_S);
    } else if (this.calm > CALM_FRAMES && !frame.speaking && this.least > FIRST_AHEAD_S) {
      this.ahead = Math.max(this.ahead - STEP_S, FIRST_AHEAD_S);
      this.#begin(this.start - STEP_S);
    }
    this.calm += 1;
    this.least = Math.min(this.least, spare);
    return this.start + place;
  }

  #begin(time) {
    this.start = Math.round(time * this.soundRate) / this.soundRate; // whole samples: frames join without a seam
    this.slow = false;
    this.#steady();
  }

  #steady() {
    this.calm = 0; // frames since the waiting was changed
    this.least = Infinity; // how early the latest of them came, s
  }

  #play(samples, at) {
    const buffer = new AudioBuffer({ length: samples.length, sampleRate: this.soundRate, numberOfChannels: 1 });
    const values = buffer.getChannelData(0);
    for (let i = 0; i < samples.length; i++) values[i] = samples[i] / 32768;
    const source = new AudioBufferSourceNode(this.context, { buffer });
    source.connect(this.turn);
    source.start(at);
  }

  #draw() {
    this.drawing = requestAnimationFrame(() => this.#draw());
    const now = this.heard();
    let due = -1;
    for (let i = 0; i < this.queue.length && this.queue[i].at <= now + EARLY_S; i++) if (this.queue[i].bitmap) due = i;
    if (due < 0) return;
    const passed = this.queue.splice(0, due + 1);
    const { frame, at, bitmap } = passed[due];
    const talking = passed.filter((item) => item.frame.sound.length).length;
    const late = this.#sounding && frame.sound.length && now - at > LATE_S;
    this.slow ||= late;
    this.skipped += late || !frame.sound.length ? talking : talking - 1;
    if (!late) {
      if (this.canvas.width !== bitmap.width) this.canvas.width = bitmap.width;
      if (this.canvas.height !== bitmap.height) this.canvas.height = bitmap.height;
      this.picture.drawImage(bitmap, 0, 0);
      this.onDrawn({ frame, offset: this.#sounding ? this.heard() - at : null, ahead: this.ahead, skipped: this.skipped });
    }
    passed.forEach((item) => item.bitmap?.close());
  }
}
