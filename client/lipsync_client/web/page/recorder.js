// Runs in the audio thread: hands on the microphone's samples, 40 ms at a time.

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(Math.round(sampleRate / 25));
    this.filled = 0;
    this.running = true;
    this.port.onmessage = () => (this.running = false);
  }

  process([[samples]]) {
    for (let i = 0; samples && i < samples.length; i++) {
      this.piece[this.filled++] = samples[i];
      if (this.filled === this.piece.length) {
        this.port.postMessage(this.piece.slice());
        this.filled = 0;
      }
    }
    return this.running;
  }
}

registerProcessor("recorder", Recorder);
