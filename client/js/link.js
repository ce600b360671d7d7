// The WebSocket: messages in and out, and a new connection when it is lost. docs/web.md describes the messages.

const VERSION = 2;
const SOUND = 2, FRAME = 3; // first byte of a binary message
const SPEAKING = 1, LAST = 2, PATCH = 4, WHOLE = 8, LEFT_OUT = 16, PLAIN = 32; // flags of a frame
const FRAME_HEADER = 24, BOX = 8, SOUND_HEADER = 8;
const FIRST_WAIT_S = 0.5, LONGEST_WAIT_S = 10; // between two tries
const SILENCE_S = 8; // a connection that is silent for so long is lost: frames come 25 times a second
const OPENING_S = 25;
const TAKEN_EVERY = 5, TALKING_TAKEN_EVERY = 2; // frames; the server learns early that pictures do not get through
const FINAL = ["token", "idle", "bad_message", "too_much"]; // trying again would not help

export class Link {
  /**
   * @param {string} server the address of `lipsync web`
   * @param {number} soundRate samples a second of the frames' sound
   * @param {{welcome, frame, have, onMessage, down}} on called with the server's welcome; each frame; for the numbers of the
   *     footage frames that are here and were not told yet; with each other message; and
   *     with {reason, text, wait} when the connection is lost: `wait` is the seconds until the next try, or null
   */
  constructor(server, soundRate, on) {
    this.server = server;
    this.soundRate = soundRate;
    this.on = on;
    this.token = "";
    this.avatar = null;
    this.tries = 0;
    this.online = () => this.retry();
  }

  /** End the connection, for good or until the next `open`. */
  close() {
    window.removeEventListener("online", this.online);
    this.#forget();
    this.welcomed = false;
  }

  /** Connect, in place of a connection that there is. */
  open() {
    this.#forget();
    window.addEventListener("online", this.online);
    const address = new URL("live", this.server);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(address);
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
    return Boolean(this.welcomed && this.socket.readyState === WebSocket.OPEN);
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
      this.welcome = message;
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
    const flags = header.getUint8(1), picture = FRAME_HEADER + soundBytes;
    if (index % (flags & SPEAKING ? TALKING_TAKEN_EVERY : TAKEN_EVERY) === 0) this.tell("taken", { index, have: this.on.have() });
    if (index === 50) this.tries = 0; // a connection that lasts
    const patch = flags & PATCH && {
      box: [0, 2, 4, 6].map((at) => header.getUint16(picture + at, true)),
      scan: new Uint8Array(data, picture + BOX),
    };
    this.on.frame({
      index,
      bytes: data.byteLength,
      speaking: Boolean(flags & SPEAKING),
      last: Boolean(flags & LAST),
      plain: Boolean(flags & PLAIN), // `whole` is the footage's own frame
      leftOut: Boolean(flags & LEFT_OUT), // its picture did not get through in time
      footage: header.getUint32(20, true),
      patch: patch || null,
      whole: flags & WHOLE ? new Uint8Array(data, picture) : null,
      speech: header.getUint32(8, true),
      speechFrame: header.getInt32(12, true),
      sound: new Int16Array(data, FRAME_HEADER, soundBytes / 2),
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
