// <lipsync-face>: a talking face from a `lipsync web` server, on any page. docs/web.md describes it.

import { Footage } from "./footage.js";
import { Link } from "./link.js";
import { Player } from "./player.js";
import { FileSender, SourceError, openMicrophone, readFile, record, samplesOf } from "./sources.js";

const STYLE = `
  :host { display: block; position: relative; aspect-ratio: var(--lipsync-ratio, 16 / 9); background: #12161d; overflow: hidden; }
  :host([hidden]) { display: none; }
  canvas, img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
  p { position: absolute; margin: 0; padding: .5em 1em; font: .85rem/1.4 system-ui, sans-serif; color: #fff; background: rgb(0 0 0 / 65%); }
  [part=message] { inset: auto 0 0; }
  [part=label] { top: 0; right: 0; padding: .15em .7em; border-bottom-left-radius: .6em; font-size: .75rem; }
  p:empty, img[hidden] { display: none; }
`;
const PATIENCE_MS = 1500; // a connection that is back by then is not worth a word

export class LipsyncFace extends HTMLElement {
  static observedAttributes = ["src", "avatar", "token", "muted", "poster", "label"];

  #canvas = document.createElement("canvas");
  #poster = document.createElement("img");
  #message = document.createElement("p");
  #label = document.createElement("p");
  #footage = null;
  #source = null; // what speaks: {kind, stop?, sender?}; one at a time
  #speaking = false; // a talking frame was drawn last
  #pendingInterrupts = 0; // interruptions that the server has not answered yet: talking frames until then are old
  #ended = Infinity; // number of the speech's last frame, once it has come
  #opening = 0; // which call is being carried out: an older one gives way
  #state = "idle";
  #ready = []; // who waits for a connection
  #awake = () => this.player.resume(); // browsers want a click or a key before there is sound

  constructor() {
    super();
    const sheet = new CSSStyleSheet(); // allowed where the page's policy forbids inline styles
    sheet.replaceSync(STYLE);
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    Object.assign(this.#canvas, { width: 1280, height: 720, part: "face" });
    Object.assign(this.#poster, { alt: "", hidden: true, part: "poster" });
    Object.assign(this.#message, { part: "message" });
    Object.assign(this.#label, { part: "label" });
    this.#message.setAttribute("role", "status");
    root.append(this.#canvas, this.#poster, this.#label, this.#message, document.createElement("slot"));
  }

  connectedCallback() {
    if (!this.hasAttribute("role")) this.setAttribute("role", "img");
    this.#footage = new Footage();
    /** Plays sound and draws pictures on one clock. */
    this.player = new Player(this.#canvas, this.#footage, (drawn) => this.#drawn(drawn));
    this.player.muted = this.muted;
    /** The WebSocket. */
    this.link = new Link(this.#server, this.player.soundRate, {
      welcome: (message) => this.#welcome(message),
      frame: (frame) => this.#take(frame),
      have: () => this.#footage.takeNews(),
      onMessage: (message) => this.#hear(message),
      down: (why) => this.#down(why),
    });
    for (const kind of ["pointerdown", "keydown"]) window.addEventListener(kind, this.#awake);
    this.#showPoster();
    this.#open();
  }

  disconnectedCallback() {
    this.#endSource();
    for (const kind of ["pointerdown", "keydown"]) window.removeEventListener(kind, this.#awake);
    this.link.close();
    this.#footage.forget();
    this.player.close();
    this.player = this.link = null;
    this.#speaking = false;
  }

  attributeChangedCallback(name, before, now) {
    if (name === "label") this.#label.textContent = now;
    if (name === "label" || !this.link || before === now) return;
    if (name === "muted") this.player.muted = this.muted;
    else if (name === "poster") this.#showPoster();
    else {
      this.interrupt();
      this.link.server = this.#server;
      this.#open();
    }
  }

  get muted() {
    return this.hasAttribute("muted");
  }

  set muted(muted) {
    this.toggleAttribute("muted", muted);
  }

  /** What the server said of itself: avatars, size, limits. Null without a connection. */
  get server() {
    return this.link?.ready ? this.link.welcome : null;
  }

  /** "idle", "starting" (something is to be said), "speaking" or "listening" (to the microphone or a stream). */
  get state() {
    return this.#state;
  }

  /** How much of the avatar's footage is here, 0 to 1. */
  get footageThere() {
    return this.#footage?.frames ? this.#footage.kept.size / this.#footage.frames : 0;
  }

  /** Speak a text, in place of what is spoken. `choice`: {voice, language}, of those that the server offers. */
  speak(text, { voice = "", language = "" } = {}) {
    return this.#begin("text", async () => ({ start: () => this.link.tell("say", { text, voice, language }) }));
  }

  /**
   * Speak a sound, in place of what is spoken: a Blob or ArrayBuffer of a sound file, an AudioBuffer, or a MediaStream, to
   * which the face listens until `stop`. Gives the seconds that it lasts; null for a stream, or if another call came first.
   */
  play(sound) {
    if (sound instanceof MediaStream) return this.#listen((onPiece) => record(sound.clone(), onPiece));
    return this.#begin("file", async () => {
      const speech = sound instanceof AudioBuffer ? samplesOf(sound) : await readFile(this.player.context, sound);
      return { seconds: speech.samples.length / speech.rate, start: () => (this.#source.sender = new FileSender(this.link, speech)) };
    });
  }

  /** Speak what the microphone hears, until `stop`. */
  listen() {
    return this.#listen(openMicrophone);
  }

  /** The speech is complete as far as it goes; what was said is still shown. */
  stop() {
    this.#endSource();
    this.link?.tell("end");
    this.#show();
  }

  /** Be silent at once: nothing more of what was begun is heard or shown, here or on the server. */
  interrupt() {
    if (!this.link || !(this.#source || this.#speaking)) return;
    this.#silence();
  }

  /** Connect now, if there is no connection. */
  connect() {
    if (this.link && !this.link.ready) this.#open();
  }

  get #server() {
    return new URL(this.getAttribute("src") || new URL("..", import.meta.url), document.baseURI);
  }

  #open() {
    Object.assign(this.link, { avatar: this.getAttribute("avatar"), token: this.getAttribute("token") ?? "" });
    this.link.open();
  }

  #listen(open) {
    return this.#begin("microphone", async () => {
      let first = true;
      const stop = await open((rate, piece, age) => {
        if (this.#source?.stop !== stop) return;
        if (first) this.#tell("begin", { kind: "microphone", age });
        first = false;
        this.link.sound(rate, piece);
      });
      return { seconds: null, stop };
    });
  }

  /** Make room for another source. `prepare` gives {start, stop}. If a later call comes while it prepares, it gives way. */
  async #begin(kind, prepare) {
    this.player.resume();
    this.#silence();
    const mine = ++this.#opening;
    this.#source = { kind };
    this.#show();
    try {
      if (!this.link.ready) await new Promise((done) => this.#ready.push(done));
      const prepared = mine === this.#opening && (await prepare());
      if (mine !== this.#opening || !this.link?.ready) {
        prepared?.stop?.();
        return null;
      }
      this.#source = { kind, ...prepared };
      this.#tell("begin", { kind, age: 0 });
      prepared.start?.();
      return prepared.seconds ?? null;
    } catch (error) {
      if (!(error instanceof SourceError)) throw error;
      if (mine !== this.#opening) return null;
      this.#endSource();
      this.#tell("error", { reason: "source", text: error.message });
      return null;
    } finally {
      this.#show();
    }
  }

  #welcome(message) {
    this.#pendingInterrupts = 0;
    this.player.fps = message.fps;
    this.player.restart();
    const { path, frames } = message.footage;
    this.#footage.open(new URL(path, this.link.server).href, frames, this.link.token);
    this.style.setProperty("--lipsync-ratio", `${message.width} / ${message.height}`);
    this.setAttribute("aria-label", `The face of ${message.avatar}`);
    this.#say("");
    this.#tell("ready", message);
    this.#ready.splice(0).forEach((done) => done());
  }

  #down(why) {
    this.#endSource();
    this.#ready = [];
    this.player.restart();
    this.#speaking = false;
    this.#ended = Infinity;
    this.#show();
    this.#tell("disconnected", why);
    if (why.wait === null) this.#tell("error", { reason: why.reason, text: why.text });
    clearTimeout(this.patience);
    this.patience = setTimeout(() => this.#say(why.text || "The face is not connected."), why.wait === null ? 0 : PATIENCE_MS);
  }

  #take(frame) {
    this.#footage.next = frame.footage;
    if (frame.plain) this.#footage.keep(frame.footage, frame.whole);
    if (frame.leftOut) this.#footage.rest();
    if (this.#pendingInterrupts && frame.speaking) return;
    if (frame.last) this.#ended = frame.index;
    this.player.push(frame);
    if (frame.speechFrame >= 0) this.#source?.sender?.advance(frame.speechFrame / this.player.fps);
    if (document.hidden) this.#seen(frame);
  }

  #hear(message) {
    if (message.type === "interrupted") this.#pendingInterrupts = Math.max(0, this.#pendingInterrupts - 1);
    if (message.type === "footage") this.#footage.open(new URL(message.path, this.link.server).href, message.frames, this.link.token);
    if (message.type !== "error") return;
    this.interrupt();
    if (this.link.ready) this.#tell("error", message); // else it is told when the connection has ended
  }

  #drawn(drawn) {
    this.#poster.hidden = true;
    this.#tell("picture", drawn);
    this.#seen(drawn.frame);
  }

  #seen(frame) {
    this.#speaking = frame.speaking && !frame.last;
    if (frame.index >= this.#ended) {
      this.#ended = Infinity;
      if (this.#source && this.#source.kind !== "microphone") this.#endSource();
    }
    this.#show();
  }

  #silence() {
    this.#endSource();
    this.#pendingInterrupts += this.link.ready;
    this.link.tell("interrupt");
    this.player.flush();
    this.#speaking = false;
    this.#ended = Infinity;
    this.#show();
  }

  #endSource() {
    this.#opening += 1;
    this.#source?.stop?.();
    this.#source = null;
  }

  #show() {
    const source = this.#source?.kind;
    const state = source === "microphone" ? "listening" : this.#speaking ? "speaking" : source ? "starting" : "idle";
    if (state === this.#state) return;
    this.#state = state;
    this.#tell("state", { state });
    if (state === "speaking" || state === "idle") this.#tell(state);
  }

  #showPoster() {
    const poster = this.getAttribute("poster");
    this.#poster.hidden = !poster;
    if (poster) this.#poster.src = poster;
  }

  #say(text) {
    clearTimeout(this.patience);
    this.#message.textContent = text;
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

if (!customElements.get("lipsync-face")) customElements.define("lipsync-face", LipsyncFace);
