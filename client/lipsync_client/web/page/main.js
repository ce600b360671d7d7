// The page: what a person does, and what they see of it. The face is the element that other pages use too.

import "./element/lipsync-face.js";
import { Meters } from "./meters.js";
import { Notice } from "./notice.js";
import { Recording, canRecord } from "./recording.js";

const $ = (id) => document.getElementById(id);
const face = document.createElement("lipsync-face");
const meters = new Meters();
const notice = new Notice(() => face.connect(), (token) => {
  location.hash = new URLSearchParams({ token });
  face.setAttribute("label", "Made by AI");
face.setAttribute("token", token);
});

face.id = "face";
face.setAttribute("aria-label", "The avatar's face");
face.setAttribute("token", new URLSearchParams(location.hash.slice(1)).get("token") ?? "");
$("poster").after(face);
export const { player, link } = face;

let soundChosen = false; // the person has pressed Sound
let recording = null;
let said = ""; // the text that is spoken, for its caption

face.addEventListener("ready", ({ detail: message }) => {
  notice.hide();
  meters.lookAhead = message.look_ahead_s;
  $("stage").classList.remove("stale");
  $("stage").style.setProperty("--ratio", message.width / message.height);
  $("avatar").replaceChildren(...message.avatars.map((name) => new Option(name, name, false, name === message.avatar)));
  $("avatars").hidden = message.avatars.length < 2;
  $("text").maxLength = message.text_chars;
  offer($("voice"), message.voices.map(({ name }) => name));
  offerLanguages();
  $("no-voice").hidden = Boolean(message.voice);
  enable(true);
  for (const button of [$("speak"), ...$("examples").children]) button.disabled = !message.voice;
  pill("good", "Connected");
});

face.addEventListener("disconnected", ({ detail: { reason, text, wait } }) => {
  meters.begin(null);
  enable(false);
  show();
  $("stage").classList.add("stale");
  pill(wait === null ? "bad" : "wait", wait === null ? "Not connected" : "Reconnecting");
  notice.show(reason, text, wait);
});

face.addEventListener("error", ({ detail: { text } }) => {
  if (link.ready) say(text, "error");
});
face.addEventListener("begin", ({ detail: { kind, age } }) => meters.begin(kind, age));
face.addEventListener("picture", ({ detail: drawn }) => {
  $("poster").hidden = true;
  meters.drawn(drawn, player.fps);
});
face.addEventListener("state", show);

function offer(select, values) {
  const chosen = values.includes(select.value) ? select.value : "";
  select.replaceChildren(new Option("Automatic", ""), ...values.map((value) => new Option(value, value)));
  select.value = chosen;
  select.parentElement.hidden = values.length < 2;
}

/** Those of the voice that is chosen, or of all. */
function offerLanguages() {
  const voices = face.server.voices.filter(({ name }) => ["", name].includes($("voice").value));
  offer($("language"), [...new Set(voices.flatMap(({ languages }) => languages ?? []))].sort());
  $("choice").hidden = $("voice").parentElement.hidden && $("language").parentElement.hidden;
}

function hear(on) {
  face.muted = !on;
  $("sound").dataset.on = on;
  $("sound").lastElementChild.textContent = on ? "Sound on" : "Sound off";
}

async function startMicrophone() {
  if (!soundChosen) hear(false);
  const how = soundChosen ? "" : " Your voice is not played back, so that it does not echo; with headphones, turn Sound on.";
  say("");
  await face.listen();
  if (face.state === "listening") say(`Listening.${how}`);
}

async function startFile(file) {
  if (!file || !link.ready) return;
  say(`Reading ${file.name}`);
  if (!soundChosen) hear(true);
  const seconds = await face.play(file);
  if (seconds) say(`Speaking ${file.name} (${Math.round(seconds)} s)`);
}

function startText(text) {
  if (!text) return say("Write something to speak first.", "error");
  if (!soundChosen) hear(true);
  say("");
  said = text;
  face.speak(text, { voice: $("voice").value, language: $("language").value });
}

function interrupt() {
  if (face.state === "idle") return;
  say("");
  face.interrupt();
}

function show() {
  const { state } = face, listening = state === "listening", idle = state === "idle";
  if (idle) {
    said = "";
    if ($("message").dataset.kind !== "error") say("");
  }
  $("caption").textContent = state === "speaking" ? said : "";
  $("microphone").dataset.on = listening;
  $("microphone").lastElementChild.textContent = listening ? "Stop" : "Microphone";
  $("interrupt").disabled = !link.ready || idle;
  $("state").dataset.kind = state;
  $("state").textContent = { listening: "Live", speaking: "Speaking", starting: "Starting", idle: "Idle" }[state];
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
  for (const id of ["speak", "microphone", "file", "record"]) $(id).disabled = !on;
}

function toggleRecording() {
  if (recording) {
    recording.stop();
    recording = null;
    say("The recording is in your downloads.");
  } else recording = new Recording(face);
  $("record").dataset.on = Boolean(recording);
  $("record").lastElementChild.textContent = recording ? "Stop recording" : "Record";
}

$("say").onsubmit = (event) => {
  event.preventDefault();
  if (!$("speak").disabled) startText($("text").value.trim());
};
$("text").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("say").requestSubmit();
};
$("voice").onchange = offerLanguages;
$("examples").onclick = ({ target }) => {
  if (target.tagName !== "BUTTON") return;
  $("text").value = target.textContent;
  startText(target.textContent);
};
$("microphone").onclick = () => {
  if (face.state !== "listening") return startMicrophone();
  face.stop();
  say("");
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
$("record").hidden = !canRecord;
$("record").onclick = toggleRecording;
$("full").hidden = !document.fullscreenEnabled;
$("full").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : $("stage").requestFullscreen());
$("avatar").onchange = (event) => {
  interrupt();
  enable(false);
  pill("wait", "Loading");
  face.setAttribute("avatar", event.target.value);
};
window.onkeydown = (event) => {
  if (event.key === "Escape") interrupt();
};
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
show();
