// What the page measures of itself, shown twice a second.

const $ = (id) => document.getElementById(id);
const ms = (time) => `${Math.round(time * 1000)} ms`;
const seconds = (time) => `${time.toFixed(2)} s`;

export class Meters {
  lookAhead = 0; // seconds of sound that a picture depends on after its beginning

  constructor() {
    this.times = []; // of the pictures of the last second, ms
    this.begin(null);
    setInterval(() => this.#show(), 500);
  }

  /** A speech begins: its first sample is made now, or was `since` seconds ago. */
  begin(kind, since = 0) {
    this.kind = kind;
    this.begun = performance.now() - since * 1000;
    this.delay = this.first = this.offset = null;
    this.worst = 0;
    this.before = this.skipped ?? 0;
  }

  /** A picture was drawn `offset` seconds after its sound began to be heard. */
  drawn({ frame, offset, ahead, skipped }, fps) {
    const now = performance.now();
    this.times.push(now);
    Object.assign(this, { ahead, skipped });
    this.before = Math.min(this.before, skipped);
    if (frame.speechFrame < 0 || !this.kind) return;
    this.delay = (now - this.begun) / 1000 - frame.speechFrame / fps;
    this.first ??= this.delay;
    if (offset === null || !frame.sound.length) return;
    this.offset = offset;
    this.worst = Math.max(this.worst, Math.abs(offset));
  }

  #show() {
    const now = performance.now();
    this.times = this.times.filter((time) => time > now - 1000);
    if (this.ahead !== undefined) write("fps", this.times.length, `a second, ${ms(this.ahead)} ready ahead`);
    if (this.delay === null) write("delay", "–", "speak to measure");
    else if (this.kind === "microphone")
      write("delay", seconds(this.delay), `${seconds(this.lookAhead)} look-ahead, the rest computing`);
    else write("delay", seconds(this.first), "the look-ahead is hidden");
    $("delay-name").textContent = { null: "Delay", microphone: "Behind your voice" }[this.kind] ?? "First picture after";
    if (this.offset === null) write("offset", "–", "speak to measure");
    else write("offset", `${this.offset < 0 ? "−" : "+"}${ms(Math.abs(this.offset))}`, `at most ${ms(this.worst)}, ${this.skipped - this.before} left out`);
  }
}

function write(name, value, note) {
  $(name).textContent = value;
  $(`${name}-note`).textContent = note;
}
