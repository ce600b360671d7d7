// Runs in the audio thread: hands on samples, 40 ms at a time, with the first one's place on the audio clock.

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(Math.round(sampleRate / 25));
    this.filled = 0;
    this.running = true;
    this.port.onmessage = () => (this.running = false);
  }

  process([[samples]]) {
    if (this.filled && currentFrame !== this.at + this.filled) this.#post(); // an overloaded browser leaves some out
    for (let i = 0; i < 128; i++) {
      if (!this.filled) this.at = currentFrame + i;
      this.piece[this.filled++] = samples?.[i] ?? 0; // nothing comes in: silence
      if (this.filled === this.piece.length) this.#post();
    }
    return this.running;
  }

  #post() {
    this.port.postMessage({ at: this.at, samples: this.piece.slice(0, this.filled) });
    this.filled = 0;
  }
}

registerProcessor("recorder", Recorder);
