// Hands on what a microphone gives, block by block; it runs beside the page, as an AudioWorklet.

class Recorder extends AudioWorkletProcessor {
  process([input]) {
    if (input.length) this.port.postMessage(input[0].slice());
    return true;
  }
}

registerProcessor("recorder", Recorder);
