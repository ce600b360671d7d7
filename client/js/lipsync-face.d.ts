/** What the server says of itself when the face is connected. */
export interface Welcome {
  avatar: string;
  avatars: string[];
  width: number;
  height: number;
  fps: number;
  /** Seconds of sound that a picture depends on after its beginning. */
  look_ahead_s: number;
  /** The speech synthesiser, or null: then `speak` fails. */
  voice: string | null;
  /** What there is to choose from; `languages` is null where any is spoken. */
  voices: { name: string; languages: string[] | null }[];
  /** Longest text that is spoken at once. */
  text_chars: number;
}

/** Why something failed, in a sentence for a person. */
export interface Failure {
  reason: string;
  text: string;
}

export interface LipsyncFaceEvents {
  /** Connected, also once more after a connection was lost. */
  ready: CustomEvent<Welcome>;
  speaking: CustomEvent<null>;
  idle: CustomEvent<null>;
  error: CustomEvent<Failure>;
  /** The connection is lost; `wait`: seconds until the next try, or null if there will be none. */
  disconnected: CustomEvent<Failure & { wait: number | null }>;
  state: CustomEvent<{ state: State }>;
}

export type State = "idle" | "starting" | "speaking" | "listening";

/**
 * A talking face. Attributes: `src` (address of `lipsync web`; by default where this module came from), `avatar`, `token`,
 * `muted`, `poster` (a picture until the face is there), `label` (words in a corner, such as "Made by AI"). Parts: `face`,
 * `poster`, `label`, `message`.
 */
export class LipsyncFace extends HTMLElement {
  muted: boolean;
  readonly state: State;
  /** Null without a connection. */
  readonly server: Welcome | null;
  /** How much of the avatar's footage is here, 0 to 1: once it is 1, only mouths travel. */
  readonly footageThere: number;
  /** Speak a text, in place of what is spoken. Without a choice the server takes a voice that suits the text. */
  speak(text: string, choice?: { voice?: string; language?: string }): Promise<null>;
  /**
   * Speak a sound, in place of what is spoken. A MediaStream is listened to until `stop`. Gives the seconds that it
   * lasts; null for a stream, or if another call came first.
   */
  play(sound: Blob | ArrayBuffer | AudioBuffer | MediaStream): Promise<number | null>;
  /** Speak what the microphone hears, until `stop`. */
  listen(): Promise<null>;
  /** What was said so far is still shown, and no more is taken. */
  stop(): void;
  /** Be silent at once. */
  interrupt(): void;
  /** Connect now, if there is no connection. */
  connect(): void;
  addEventListener<K extends keyof LipsyncFaceEvents>(
    type: K,
    listener: (this: LipsyncFace, event: LipsyncFaceEvents[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "lipsync-face": LipsyncFace;
  }
}
