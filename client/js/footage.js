// The avatar's plain footage: fetched once, in blocks, and the browser's cache keeps it for the next visit. What is shown
// before it has come is brought by the WebSocket.

const BLOCK = 10; // frames of a request
const AT_ONCE = 2; // requests
const KEPT_BYTES = 160e6; // of an avatar with more, the rest always comes through the WebSocket
const RETRY_MS = 2000;
const REST_MS = 1000; // when the connection is too slow for what is shown

export class Footage {
  constructor() {
    this.forget();
  }

  /** Begin with an avatar: the footage's address, how many frames it has, and the server's token. */
  open(base, frames, token) {
    if (this.base !== base) {
      this.forget();
      Object.assign(this, { base, frames, token, abort: new AbortController() });
    }
    this.news = [...this.kept.keys()]; // another connection knows of nothing
    this.#fetch();
  }

  /** Nothing is wanted any more. */
  forget() {
    this.abort?.abort();
    this.base = null;
    this.frames = this.bytes = this.busy = this.next = this.restUntil = 0;
    this.kept = new Map(); // JPEGs by frame
    this.news = []; // frames that are here, and the server was not told so
    this.blocks = new Set(); // that were fetched or are being fetched
  }

  /** A frame's JPEG if it is here. */
  get(frame) {
    return this.kept.get(frame);
  }

  /** Keep a frame. */
  keep(frame, jpeg) {
    if (this.kept.has(frame) || this.bytes + jpeg.length > KEPT_BYTES) return;
    this.kept.set(frame, jpeg);
    this.news.push(frame);
    this.bytes += jpeg.length;
  }

  /** Frames that have come since this was asked last. */
  takeNews() {
    return this.news.splice(0);
  }

  /** Something more important does not get through: no new request for a moment. */
  rest() {
    this.restUntil = performance.now() + REST_MS;
  }

  #fetch() {
    while (this.base && this.busy < AT_ONCE) {
      const first = this.#missing();
      if (first < 0) return;
      this.#fetchBlock(first, this.base);
    }
  }

  /** The next block, after what is shown now, that was not asked for. */
  #missing() {
    const blocks = Math.ceil(this.frames / BLOCK), next = Math.ceil((this.next + BLOCK) / BLOCK);
    for (let i = 0; i < blocks && this.bytes < KEPT_BYTES; i++) {
      const block = (next + i) % blocks;
      if (!this.blocks.has(block)) return block;
    }
    return -1;
  }

  async #fetchBlock(block, base) {
    this.busy += 1;
    this.blocks.add(block);
    try {
      const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
      const answer = await fetch(`${base}${block * BLOCK}-${Math.min((block + 1) * BLOCK, this.frames) - 1}`, { headers, signal: this.abort.signal });
      if (!answer.ok) throw new Error(answer.statusText);
      const bytes = await answer.arrayBuffer();
      if (base === this.base) this.#unpack(block * BLOCK, bytes);
    } catch {
      // The connection is lost, or the avatar was replaced: then another footage is opened.
      if (base === this.base) this.blocks.delete(block);
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
    while (base === this.base && performance.now() < this.restUntil) await new Promise((done) => setTimeout(done, REST_MS));
    if (base !== this.base) return;
    this.busy -= 1;
    this.#fetch();
  }

  /** Frames one after the other, each after its length (u32). */
  #unpack(frame, bytes) {
    const view = new DataView(bytes);
    for (let at = 0; at < bytes.byteLength; frame++) {
      const size = view.getUint32(at, true);
      this.keep(frame, new Uint8Array(bytes, at + 4, size));
      at += 4 + size;
    }
  }
}
