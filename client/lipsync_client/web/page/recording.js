// Records what is seen and heard, in the browser, and downloads it.

const KINDS = ["video/mp4;codecs=avc1.42E01F,mp4a.40.2", "video/webm;codecs=vp9,opus", "video/webm"];
const KIND = KINDS.find((kind) => globalThis.MediaRecorder?.isTypeSupported(kind));

/** Whether this browser can. */
export const canRecord = Boolean(KIND);

export class Recording {
  /** Begin to record a face. */
  constructor(face) {
    const { player } = face;
    player.resume(); // without sound's clock nothing is recorded
    this.sound = new MediaStreamAudioDestinationNode(player.context);
    this.source = player.volume;
    this.source.connect(this.sound);
    const stream = new MediaStream([...player.canvas.captureStream().getTracks(), ...this.sound.stream.getTracks()]);
    const parts = [];
    this.recorder = new MediaRecorder(stream, { mimeType: KIND, videoBitsPerSecond: 4e6 });
    this.recorder.ondataavailable = ({ data }) => parts.push(data);
    this.recorder.onstop = () => download(new Blob(parts, { type: KIND }));
    this.recorder.start(1000);
  }

  /** End, and download what was recorded. */
  stop() {
    this.recorder.stop();
    this.source.disconnect(this.sound);
  }
}

function download(video) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(video);
  link.download = `talking-face.${KIND.startsWith("video/mp4") ? "mp4" : "webm"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
