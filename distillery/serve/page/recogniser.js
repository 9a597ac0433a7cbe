// From a recording to its text and the times of its words; as distillery/serve/packaged.py, in
// windows as distillery/serve/long_audio.py has them.

import { bestPath, Decoder, textOf, WordModel } from "./decoder.js";
import { Features, roundHalfEven } from "./features.js";

const BLANK = 0;
const MAX_WHOLE_SECONDS = 60;
const WINDOW_SECONDS = 20;
const CONTEXT_SECONDS = 5;
const FRONT_REACH_FRAMES = 12;

/** Samples in [-1, 1) as 16-bit integers hold them, which is what models hear. */
export function as16Bits(samples) {
  return Float32Array.from(samples, (value) =>
    Math.max(-32768, Math.min(32767, roundHalfEven(Math.fround(value * 32768)))) / 32768);
}

/** First frame of each token and the one behind its last; distillery/decoder/alignment.py. */
export function align(logProbs, size, tokens) {
  const numFrames = logProbs.length / size, numStates = 2 * tokens.length + 1;
  if (!tokens.length) return [];
  const tokenOf = (state) => (state % 2 ? tokens[(state - 1) / 2] : BLANK);
  let scores = new Float64Array(numStates).fill(-Infinity);
  scores[0] = scores[1] = 0;
  const steps = new Int8Array(numFrames * numStates);
  for (let frame = 0; frame < numFrames; frame++) {
    const next = new Float64Array(numStates);
    for (let state = 0; state < numStates; state++) {
      let best = scores[state], step = 0;
      if (frame && state > 0 && scores[state - 1] > best) [best, step] = [scores[state - 1], 1];
      const skips = state > 2 && state % 2 && tokenOf(state) !== tokenOf(state - 2);
      if (frame && skips && scores[state - 2] > best) [best, step] = [scores[state - 2], 2];
      steps[frame * numStates + state] = step;
      next[state] = best + logProbs[frame * size + tokenOf(state)];
    }
    scores = next;
  }
  let state = numStates - 1 - (scores[numStates - 2] > scores[numStates - 1] ? 1 : 0);
  const spans = tokens.map(() => [-1, -1]);
  if (!numFrames || scores[state] === -Infinity) return spans.map(() => [0, 0]);
  for (let frame = numFrames - 1; frame >= 0; frame--) {
    if (state % 2) {
      const span = spans[(state - 1) / 2];
      span[0] = frame;
      if (span[1] < 0) span[1] = frame + 1;
    }
    state -= steps[frame * numStates + state];
  }
  return spans;
}

/** Words of a text with the seconds in which they were heard. */
function wordsOf(tokens, numbers, spans, frameSeconds) {
  const words = [];
  let word = null;
  numbers.forEach((number, at) => {
    const letters = tokens[number].replace("|", "");
    if (letters !== tokens[number]) word = null; // a boundary, alone or in front of a piece
    if (!letters) return;
    if (word === null) words.push((word = { text: "", start: spans[at][0] * frameSeconds, end: 0 }));
    word.text += letters;
    word.end = spans[at][1] * frameSeconds;
  });
  return words;
}

function joined(parts) {
  if (parts.length === 1) return parts[0];
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}

export class Recogniser {
  /**
   * @param ort onnxruntime-web
   * @param fetchFile gives the bytes of a file's name
   * @param modelFile the network's name
   * @param hasDecoder whether texts are searched
   */
  static async load(ort, fetchFile, modelFile, hasDecoder) {
    const textFile = async (name) => new TextDecoder().decode(await fetchFile(name));
    const config = JSON.parse(await textFile("config.json"));
    const tokens = (await textFile("tokens.txt")).split("\n").slice(0, -1);
    let decoder = null;
    if (hasDecoder) {
      const model = await WordModel.read(await fetchFile("decoder.lm"));
      decoder = new Decoder(model, tokens, JSON.parse(await textFile("decoder.json")));
    }
    const network = new Uint8Array(await fetchFile(modelFile));
    const session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
    return new Recogniser(ort, session, config, tokens, decoder);
  }

  constructor(ort, session, config, tokens, decoder) {
    Object.assign(this, { ort, session, tokens, decoder });
    this.rate = config.sample_rate_hz;
    this.features = new Features(config.features, this.rate);
    this.hop = config.features.hop_seconds;
    this.architecture = config.architecture;
    this.frameSeconds = this.hop * this.architecture.time_reduction;
  }

  /** Returns text, words with times, seconds of audio and of computing. */
  async recognise(samples) {
    const started = performance.now();
    const windows = await this.scores(as16Bits(samples));
    const logProbs = joined(windows), size = this.tokens.length;
    const found = this.decoder ? this.decoder.decode(windows) : this.#bestPath(logProbs);
    const spans = align(logProbs, size, found.tokens);
    return {
      text: found.text,
      words: wordsOf(this.tokens, found.tokens, spans, this.frameSeconds),
      seconds: samples.length / this.rate,
      computing: (performance.now() - started) / 1000,
    };
  }

  #bestPath(logProbs) {
    const tokens = bestPath(logProbs, this.tokens.length);
    return { tokens, text: textOf(this.tokens, tokens) };
  }

  /** Log-probabilities of a recording, window by window. */
  async scores(samples) {
    const mels = this.features.numMels, features = this.features.of(samples);
    if (samples.length <= MAX_WHOLE_SECONDS * this.rate) return [await this.#run(features)];
    const numFrames = features.length / mels, reduction = this.architecture.time_reduction;
    const kept = this.#wholeFrames(WINDOW_SECONDS), context = this.#contextFrames(), found = [];
    for (let begin = 0; begin < numFrames; begin += kept) {
      const first = Math.max(0, begin - context), end = Math.min(numFrames, begin + kept + context);
      const scores = await this.#run(features.slice(first * mels, end * mels));
      const stop = Math.ceil((Math.min(begin + kept, numFrames) - first) / reduction);
      const size = this.tokens.length;
      found.push(scores.slice(Math.floor((begin - first) / reduction) * size, stop * size));
    }
    return found;
  }

  #wholeFrames(seconds) {
    const { time_reduction: reduction } = this.architecture;
    return Math.max(1, roundHalfEven(seconds / this.hop / reduction)) * reduction;
  }

  #contextFrames() {
    const { type, time_reduction: reduction, num_blocks: blocks, kernel_size: kernel } = this.architecture;
    if (type !== "separable_conv" && type !== "causal_conv") return this.#wholeFrames(CONTEXT_SECONDS);
    const each = type === "separable_conv" ? Math.floor(kernel / 2) : kernel - 1;
    return (blocks * each + Math.ceil(FRONT_REACH_FRAMES / reduction)) * reduction;
  }

  async #run(features) {
    const mels = this.features.numMels;
    const input = new this.ort.Tensor("float32", features, [1, features.length / mels, mels]);
    const { log_probs: output } = await this.session.run({ features: input });
    return output.data;
  }
}
