// Where speech comes from: the microphone, or a file. Both give 16-bit mono samples.

const PIECE_S = 0.1; // of a file, a message: at 768 kHz still within the server's limit
const AHEAD_S = 10; // a file is sent so far ahead of what was shown; the server takes more, but not much

/** A failure with a sentence for the person. */
export class SourceError extends Error {}

/** Samples of floats as 16-bit ones. */
export function toInt16(values) {
  const samples = new Int16Array(values.length);
  for (let i = 0; i < values.length; i++) samples[i] = Math.max(-32768, Math.min(32767, Math.round(values[i] * 32768)));
  return samples;
}

/**
 * Start the microphone. Gives a function that stops it. `onPiece(rate, samples, age)` is called with 40 ms
 * at a time, and how long ago they began, s.
 */
export async function openMicrophone(onPiece) {
  if (!navigator.mediaDevices || !globalThis.AudioWorkletNode)
    throw new SourceError(
      "Browsers give the microphone only to pages from https or from localhost. On the server's own machine open " +
        `http://localhost:${location.port || 80}/, or reach it through an SSH tunnel or a proxy with TLS.`,
    );
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 } });
  } catch (error) {
    throw new SourceError(
      {
        NotAllowedError: "The browser does not allow the microphone. Allow it beside the address, then press Microphone again.",
        NotFoundError: "There is no microphone. Connect one, then press Microphone again.",
        NotReadableError: "The microphone cannot be opened: another program may be using it.",
      }[error.name] ?? `The microphone cannot be opened (${error.message}).`,
    );
  }
  return record(stream, onPiece);
}

/** Listen to a stream of sound: as `openMicrophone`. */
export async function record(stream, onPiece) {
  const context = new AudioContext(); // at the microphone's own rate
  const close = () => {
    stream.getTracks().forEach((track) => track.stop());
    context.close();
  };
  try {
    await context.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
    const source = new MediaStreamAudioSourceNode(context, { mediaStream: stream });
    const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    recorder.port.onmessage = ({ data: { at, samples } }) => onPiece(context.sampleRate, toInt16(samples), context.currentTime - at / context.sampleRate);
    source.connect(recorder);
    return () => {
      source.disconnect();
      recorder.port.onmessage = null;
      recorder.port.postMessage("stop");
      close();
    };
  } catch (error) {
    close();
    throw new SourceError(`The microphone cannot be read (${error.message}).`);
  }
}

/** Read a sound file, a Blob or an ArrayBuffer, as mono samples at the context's rate. */
export async function readFile(context, file, mostBytes = 200e6) {
  const name = file.name ?? "This sound", size = file.size ?? file.byteLength;
  if (size > mostBytes) throw new SourceError(`${name} has ${Math.round(size / 1e6)} MB; ${mostBytes / 1e6} MB are allowed here. \`lipsync render\` takes files of any size.`);
  try {
    return samplesOf(await context.decodeAudioData(await new Blob([file]).arrayBuffer()));
  } catch {
    throw new SourceError(`${name} has no sound that this browser can read. WAV, MP3, M4A, OGG and FLAC work everywhere.`);
  }
}

/** An AudioBuffer as mono samples. */
export function samplesOf(sound) {
  const mono = sound.getChannelData(0).slice();
  for (let channel = 1; channel < sound.numberOfChannels; channel++) {
    const values = sound.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i] += values[i];
  }
  for (let i = 0; i < mono.length; i++) mono[i] /= sound.numberOfChannels;
  return { samples: toInt16(mono), rate: sound.sampleRate };
}

/** Sends a file's samples piece by piece. Call `advance` with the seconds of it that were shown. */
export class FileSender {
  constructor(link, { samples, rate }) {
    Object.assign(this, { link, samples, rate, sent: 0 });
    this.seconds = samples.length / rate;
    this.advance(0);
  }

  advance(shown) {
    const until = Math.min(this.samples.length, (shown + AHEAD_S) * this.rate);
    while (this.sent < until) {
      const stop = Math.min(this.samples.length, this.sent + Math.round(PIECE_S * this.rate));
      this.link.sound(this.rate, this.samples.subarray(this.sent, stop));
      this.sent = stop;
      if (stop === this.samples.length) this.link.tell("end");
    }
  }
}
