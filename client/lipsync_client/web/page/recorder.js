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
    const count = samples?.length ?? 128; // nothing comes in: silence
    for (let i = 0; i < count; i++) {
      if (!this.filled) this.at = currentFrame + i;
      this.piece[this.filled++] = samples?.[i] ?? 0;
      if (this.filled === this.piece.length) {
        this.port.postMessage({ at: this.at, samples: this.piece });
        this.filled = 0;
      }
    }
    return this.running;
  }
}

registerProcessor("recorder", Recorder);
