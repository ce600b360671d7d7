// The page: what a person does, and what they see of it.

import { Link } from "./link.js";
import { Meters } from "./meters.js";
import { Notice } from "./notice.js";
import { Player } from "./player.js";
import { FileSender, SourceError, openMicrophone, readFile } from "./sources.js";

const $ = (id) => document.getElementById(id);
const meters = new Meters();
const notice = new Notice(() => link.open(), (token) => {
  location.hash = new URLSearchParams({ token });
  link.token = token;
  link.open();
});

export const player = new Player($("face"), drawn);
export const link = new Link(player.soundRate, { welcome, frame, onMessage, down });

let source = null; // what speaks: {kind, stop?, sender?}; one at a time
let speaking = false; // a talking frame was drawn last
let pendingInterrupts = 0; // interruptions that the server has not answered yet: talking frames until then are old
let soundChosen = false; // the person has pressed Sound
let ended = Infinity; // number of the speech's last frame, once it has come
let shown = ""; // by `show`
let opening = 0; // which press of a button is being carried out: an older one gives way

link.token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
link.open();

function welcome(message) {
  pendingInterrupts = 0;
  player.fps = message.fps;
  player.restart();
  notice.hide();
  meters.lookAhead = message.look_ahead_s;
  $("stage").classList.remove("stale");
  $("stage").style.setProperty("--ratio", message.width / message.height);
  $("face").setAttribute("aria-label", `The face of ${message.avatar}`);
  $("avatar").replaceChildren(...message.avatars.map((name) => new Option(name, name, false, name === message.avatar)));
  $("avatars").hidden = message.avatars.length < 2;
  $("text").maxLength = message.text_chars;
  $("no-voice").hidden = Boolean(message.voice);
  enable(true);
  $("speak").disabled = !message.voice;
  pill("good", "Connected");
}

function down({ reason, text, wait }) {
  endSource();
  player.restart();
  meters.begin(null);
  enable(false);
  speaking = false;
  ended = Infinity;
  show();
  $("stage").classList.add("stale");
  pill(wait === null ? "bad" : "wait", wait === null ? "Not connected" : "Reconnecting");
  notice.show(reason, text, wait);
}

function frame(frame) {
  if (pendingInterrupts && frame.speaking) return;
  if (frame.last) ended = frame.index;
  player.push(frame);
  if (frame.speechFrame >= 0) source?.sender?.advance(frame.speechFrame / player.fps);
  if (document.hidden) seen(frame);
}

function onMessage(message) {
  if (message.type === "interrupted") pendingInterrupts = Math.max(0, pendingInterrupts - 1);
  if (message.type !== "error") return;
  interrupt();
  if (link.ready) say(message.text, "error");
}

function drawn(now) {
  meters.drawn(now, player.fps);
  seen(now.frame);
}

function seen(frame) {
  speaking = frame.speaking && !frame.last;
  if (frame.index >= ended) {
    ended = Infinity;
    if (source && source.kind !== "microphone") {
      endSource();
      say("");
    }
  }
  show();
}

/**
 * Make room for another source. `prepare` gives {start, stop}: `start` makes it speak. If a later press comes while it
 * prepares, it gives way.
 */
async function begin(kind, prepare) {
  player.resume();
  silence();
  const mine = ++opening;
  try {
    const ready = await prepare();
    if (mine !== opening || !link.ready) return ready.stop?.();
    source = { kind, ...ready };
    meters.begin(kind);
    source.start?.();
  } catch (error) {
    if (!(error instanceof SourceError)) throw error;
    if (mine === opening) say(error.message, "error");
  }
  show();
}

function startMicrophone() {
  let first = true;
  begin("microphone", async () => {
    const stop = await openMicrophone(player.context, (piece, age) => {
      if (source?.stop !== stop) return;
      if (first) meters.begin("microphone", age);
      first = false;
      link.sound(player.context.sampleRate, piece);
    });
    const start = () => {
      if (!soundChosen) hear(false);
      const how = soundChosen ? "" : " Your voice is not played back, so that it does not echo; with headphones, turn Sound on.";
      say(`Listening.${how}`);
    };
    return { start, stop };
  });
}

function startFile(file) {
  if (!file || !link.ready) return;
  begin("file", async () => {
    say(`Reading ${file.name}`);
    const sound = await readFile(player.context, file);
    const start = () => {
      say(`Speaking ${file.name} (${Math.round(sound.samples.length / sound.rate)} s)`);
      if (!soundChosen) hear(true);
      source.sender = new FileSender(link, sound);
    };
    return { start };
  });
}

function startText() {
  const text = $("text").value.trim();
  if (!text) return say("Write something to speak first.", "error");
  begin("text", async () => {
    if (!soundChosen) hear(true);
    return { start: () => link.tell("say", { text }) };
  });
}

function interrupt() {
  if (source || speaking) silence();
}

/** Nothing more of what was begun is heard or shown, here or on the server. */
function silence() {
  endSource();
  pendingInterrupts += link.ready;
  link.tell("interrupt");
  player.flush();
  speaking = false;
  ended = Infinity;
  say("");
  show();
}

/** The speech is complete as far as it goes; what was said is still shown. */
function endSource() {
  opening += 1;
  source?.stop?.();
  source = null;
}

function hear(on) {
  player.muted = !on;
  $("sound").dataset.on = on;
  $("sound").lastElementChild.textContent = on ? "Sound on" : "Sound off";
}

function show() {
  const kind = source?.kind === "microphone" ? "listening" : speaking ? "speaking" : "idle";
  const stoppable = link.ready && Boolean(source || speaking);
  if (shown === kind + stoppable) return;
  shown = kind + stoppable;
  $("microphone").dataset.on = kind === "listening";
  $("microphone").lastElementChild.textContent = kind === "listening" ? "Stop" : "Microphone";
  $("interrupt").disabled = !stoppable;
  $("state").dataset.kind = kind;
  $("state").textContent = { listening: "Live", speaking: "Speaking", idle: "Idle" }[kind];
}

function say(text, kind = "") {
  $("message").dataset.kind = kind;
  $("message").textContent = text;
}

function pill(kind, text) {
  $("link").dataset.kind = kind;
  $("link").textContent = text;
  $("state").hidden = kind !== "good";
}

function enable(on) {
  for (const id of ["speak", "microphone", "file"]) $(id).disabled = !on;
}

$("say").onsubmit = (event) => {
  event.preventDefault();
  if (!$("speak").disabled) startText();
};
$("text").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("say").requestSubmit();
};
$("microphone").onclick = () => {
  if (source?.kind !== "microphone") return startMicrophone();
  endSource();
  link.tell("end");
  say("");
  show();
};
$("file").onclick = () => $("file-input").click();
$("file-input").onchange = (event) => {
  startFile(event.target.files[0]);
  event.target.value = ""; // the same file again is a change too
};
$("sound").onclick = () => {
  soundChosen = true;
  hear($("sound").dataset.on !== "true");
};
$("interrupt").onclick = interrupt;
$("avatar").onchange = (event) => {
  interrupt();
  enable(false);
  pill("wait", "Loading");
  link.avatar = event.target.value;
  link.open();
};
window.onkeydown = (event) => {
  player.resume();
  if (event.key === "Escape") interrupt();
};
window.onpointerdown = () => player.resume();
window.ondragover = (event) => {
  event.preventDefault();
  $("drop").hidden = !link.ready || !event.dataTransfer.types.includes("Files");
};
window.ondragleave = (event) => ($("drop").hidden ||= !event.relatedTarget);
window.ondrop = (event) => {
  event.preventDefault();
  $("drop").hidden = true;
  startFile(event.dataTransfer.files[0]);
};
hear(true);
