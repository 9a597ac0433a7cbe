// What happens on the page: record or choose a file, see text, times and speed.

import * as ort from "./ort.wasm.min.mjs";
import { record, samplesOf, wavOf } from "./audio.js";
import { as16Bits, Recogniser } from "./recogniser.js";

const at = (id) => document.getElementById(id);
let recogniser = null, stop = null;

function show(state, status) {
  document.body.dataset.state = state;
  at("status").textContent = status;
  at("record").textContent = state === "recording" ? "Stop" : "Record";
  at("record").disabled = recogniser === null || state === "busy";
  at("file").disabled = recogniser === null || state === "busy" || state === "recording";
}

async function fetchFile(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

async function load() {
  const page = JSON.parse(new TextDecoder().decode(await fetchFile("page.json")));
  document.title = at("title").textContent = page.title;
  at("about").textContent = page.about;
  ort.env.wasm.numThreads = 1; // more would need headers that a plain server does not send
  recogniser = await Recogniser.load(ort, fetchFile, page.model_file, page.has_decoder);
  await recogniser.recognise(new Float32Array(recogniser.rate)); // what comes first is compiled first
  show("ready", "Ready. What is recorded stays in this browser.");
}

function row(word) {
  const line = document.createElement("tr");
  for (const text of [word.text, word.start.toFixed(2), word.end.toFixed(2)]) {
    line.append(Object.assign(document.createElement("td"), { textContent: text }));
  }
  return line;
}

async function recognise(samples) {
  show("busy", "Listening …");
  await new Promise((resolve) => setTimeout(resolve)); // so that it is seen
  const heard = as16Bits(samples), found = await recogniser.recognise(heard);
  at("text").textContent = found.text || "(nothing was understood)";
  at("words").replaceChildren(...found.words.map(row));
  const times = found.seconds / found.computing;
  at("speed").textContent = `${found.seconds.toFixed(1)} s of audio in ${(1000 * found.computing).toFixed(0)} ms: ${times.toFixed(0)} times as fast as it was spoken`;
  URL.revokeObjectURL(at("player").src);
  at("player").src = at("save").href = URL.createObjectURL(wavOf(heard, recogniser.rate));
  at("result").hidden = false;
  show("ready", "Ready.");
  window.lastResult = { ...found, samples: heard }; // for tests and the curious
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    show("error", error.name === "NotAllowedError" ? "The microphone was not allowed." : error.message);
  }
}

at("record").addEventListener("click", () =>
  attempt(async () => {
    if (stop === null) {
      stop = await record(recogniser.rate);
      show("recording", "Speak; then press Stop.");
    } else {
      const finish = stop;
      stop = null;
      await recognise(await finish());
    }
  }),
);
at("file").addEventListener("change", ({ target }) =>
  attempt(async () => {
    if (target.files.length) await recognise(await samplesOf(target.files[0], recogniser.rate));
    target.value = "";
  }),
);
attempt(load);
