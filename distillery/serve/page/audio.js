// Recordings as samples in [-1, 1) of one channel at the model's rate, and back as a WAV file.

/** Mixes channels and resamples, where that is needed, by the browser's own means. */
async function atRate(buffer, rate) {
  const mixed = new Float32Array(buffer.length), channels = buffer.numberOfChannels;
  for (let channel = 0; channel < channels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let n = 0; n < samples.length; n++) mixed[n] += samples[n];
  }
  if (channels > 1) for (let n = 0; n < mixed.length; n++) mixed[n] /= channels;
  if (buffer.sampleRate === rate || !mixed.length) return mixed;
  const context = new OfflineAudioContext(1, Math.ceil((mixed.length * rate) / buffer.sampleRate), rate);
  const one = context.createBuffer(1, mixed.length, buffer.sampleRate);
  one.copyToChannel(mixed, 0);
  const source = new AudioBufferSourceNode(context, { buffer: one });
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

/** The samples of a file of any kind that the browser decodes. */
export async function samplesOf(file, rate) {
  const decoder = new OfflineAudioContext(1, 1, rate); // decodes to its own rate
  let buffer;
  try {
    buffer = await decoder.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name}: no recording that this browser decodes; try WAV, FLAC, MP3 or Ogg`);
  }
  return atRate(buffer, rate);
}

/** Starts to record; what it returns stops, and gives the samples. */
export async function record(rate) {
  if (!navigator.mediaDevices) throw new Error("no microphone here: browsers allow it on https:// and on localhost alone");
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  const context = new AudioContext(), blocks = [];
  await context.audioWorklet.addModule("recorder.js");
  const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
  recorder.port.onmessage = ({ data }) => blocks.push(data);
  new MediaStreamAudioSourceNode(context, { mediaStream: stream }).connect(recorder);
  await context.resume();
  return async () => {
    for (const track of stream.getTracks()) track.stop();
    const native = context.sampleRate;
    await context.close();
    const length = blocks.reduce((sum, block) => sum + block.length, 0);
    if (!length) throw new Error("the microphone gave nothing; is it switched on?");
    const buffer = new AudioBuffer({ length, sampleRate: native, numberOfChannels: 1 });
    blocks.reduce((at, block) => (buffer.copyToChannel(block, 0, at), at + block.length), 0);
    return atRate(buffer, rate);
  };
}

/** A WAV file of 16 bits. */
export function wavOf(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const ascii = (at, text) => [...text].forEach((letter, n) => view.setUint8(at + n, letter.charCodeAt(0)));
  ascii(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  ascii(8, "WAVEfmt ");
  [[16, 16, 4], [20, 1, 2], [22, 1, 2], [24, rate, 4], [28, 2 * rate, 4], [32, 2, 2], [34, 16, 2]].forEach(
    ([at, value, size]) => (size === 4 ? view.setUint32(at, value, true) : view.setUint16(at, value, true)),
  );
  ascii(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, n) => view.setInt16(44 + 2 * n, value * 32768, true));
  return new Blob([view], { type: "audio/wav" });
}
