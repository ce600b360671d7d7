// The WebSocket: messages in and out, and a new connection when it is lost. docs/web.md describes the messages.

const VERSION = 1;
const FRAME = 1, SOUND = 2, SPEAKING = 1, LAST = 2, FRAME_HEADER = 20, SOUND_HEADER = 8;
const FIRST_WAIT_S = 0.5, LONGEST_WAIT_S = 10; // between two tries
const SILENCE_S = 8; // a connection that is silent for so long is lost: frames come 25 times a second
const OPENING_S = 25;
const TAKEN_EVERY = 5; // frames
const FINAL = ["token", "idle", "bad_message", "too_much"]; // trying again would not help

export class Link {
  /**
   * @param {number} soundRate samples a second of the frames' sound
   * @param {{welcome, frame, onMessage, down}} on called with the server's welcome; each frame; each other message; and
   *     with {reason, text, wait} when the connection is lost: `wait` is the seconds until the next try, or null
   */
  constructor(soundRate, on) {
    this.soundRate = soundRate;
    this.on = on;
    this.token = "";
    this.avatar = null;
    this.tries = 0;
    window.addEventListener("online", () => this.retry());
  }

  /** Connect, in place of a connection that there is. */
  open() {
    this.#forget();
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${new URL("live", location.href).pathname}`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.welcomed = false;
    this.error = null; // what the server said last before it ended the connection
    this.#watch(OPENING_S);
    socket.onopen = () => this.#send({ type: "hello", version: VERSION, token: this.token, avatar: this.avatar ?? "", sound_rate: this.soundRate });
    socket.onmessage = (event) => this.#take(event.data);
    socket.onclose = (event) => this.#down(event.reason);
  }

  /** Connect now if the next try is still to come. */
  retry() {
    if (this.timer) this.open();
  }

  get ready() {
    return this.welcomed && this.socket.readyState === WebSocket.OPEN;
  }

  /** Send a control message; nothing while there is no connection. */
  tell(type, values = {}) {
    if (this.ready) this.#send({ type, ...values });
  }

  /** Send 16-bit samples. */
  sound(rate, samples) {
    if (!this.ready) return;
    const message = new Uint8Array(SOUND_HEADER + samples.byteLength);
    message[0] = SOUND;
    new DataView(message.buffer).setUint32(4, rate, true);
    message.set(new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength), SOUND_HEADER);
    this.socket.send(message);
  }

  #send(message) {
    this.socket.send(JSON.stringify(message));
  }

  #take(data) {
    this.#watch(this.welcomed ? SILENCE_S : OPENING_S);
    if (typeof data !== "string") return this.#takeFrame(data);
    const message = JSON.parse(data);
    if (message.type === "welcome") {
      this.welcomed = true;
      this.avatar = message.avatar;
      this.on.welcome(message);
    } else {
      if (message.type === "error") this.error = message;
      this.on.onMessage(message);
    }
  }

  #takeFrame(data) {
    const header = new DataView(data);
    if (header.getUint8(0) !== FRAME) return;
    const index = header.getUint32(4, true), soundBytes = header.getUint32(16, true);
    if (index % TAKEN_EVERY === 0) this.tell("taken", { index });
    if (index === 50) this.tries = 0; // a connection that lasts
    this.on.frame({
      index,
      speaking: Boolean(header.getUint8(1) & SPEAKING),
      last: Boolean(header.getUint8(1) & LAST),
      speech: header.getUint32(8, true),
      speechFrame: header.getInt32(12, true),
      sound: new Int16Array(data, FRAME_HEADER, soundBytes / 2),
      jpeg: new Uint8Array(data, FRAME_HEADER + soundBytes),
    });
  }

  #watch(seconds) {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      this.#forget();
      this.#down("");
    }, seconds * 1000);
  }

  #down(reason) {
    clearTimeout(this.silence);
    this.welcomed = false;
    let wait = null;
    if (!FINAL.includes(reason)) {
      wait = Math.min(FIRST_WAIT_S * 2 ** this.tries, LONGEST_WAIT_S) * (0.8 + 0.4 * Math.random());
      this.tries += 1;
      this.timer = setTimeout(() => this.open(), wait * 1000);
    }
    this.on.down({ reason, text: reason ? this.error?.text : "", wait });
  }

  #forget() {
    clearTimeout(this.timer);
    clearTimeout(this.silence);
    this.timer = null;
    if (!this.socket) return;
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
  }
}
