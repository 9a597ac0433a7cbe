// Features as distillery/serve/log_mel.py and distillery/data/kaldi.py make them, normalised as in
// distillery/serve/normalised_features.py. A test compares the numbers.

const LOG_FLOOR = 1e-6;
const VARIANCE_FLOOR = 1e-2;
const PRIOR_FRAMES = 50;
const PRIOR_VARIANCE = 4.0;
const PREEMPHASIS = 0.97;
const ENERGY_FLOOR = 2 ** -23;

/** Power spectrum of real frames whose length is a power of two. */
class Transform {
  constructor(size) {
    this.size = size;
    this.cos = Float64Array.from({ length: size / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / size));
    this.sin = Float64Array.from({ length: size / 2 }, (_, k) => -Math.sin((2 * Math.PI * k) / size));
    const bits = Math.log2(size);
    this.order = Uint32Array.from({ length: size }, (_, index) => {
      let reversed = 0;
      for (let bit = 0; bit < bits; bit++) reversed |= ((index >> bit) & 1) << (bits - 1 - bit);
      return reversed;
    });
    this.real = new Float64Array(size);
    this.imaginary = new Float64Array(size);
    this.power = new Float64Array(size / 2 + 1);
  }

  /** Returns |X|² of `frame`, in an array that the next call writes over. */
  of(frame) {
    const { size, cos, sin, order, real, imaginary, power } = this;
    for (let i = 0; i < size; i++) real[i] = frame[order[i]];
    imaginary.fill(0);
    for (let half = 1; half < size; half *= 2) {
      const step = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const a = start + k, b = a + half, c = cos[k * step], s = sin[k * step];
          const re = real[b] * c - imaginary[b] * s, im = real[b] * s + imaginary[b] * c;
          real[b] = real[a] - re;
          imaginary[b] = imaginary[a] - im;
          real[a] += re;
          imaginary[a] += im;
        }
      }
    }
    for (let k = 0; k <= size / 2; k++) power[k] = real[k] ** 2 + imaginary[k] ** 2;
    return power;
  }
}

/** Triangular filters, each as where it begins and its weights. */
function triangles(bins, edges) {
  return Array.from({ length: edges.length - 2 }, (_, mel) => {
    const weights = bins.map((bin) => {
      const rising = (bin - edges[mel]) / (edges[mel + 1] - edges[mel]);
      const falling = (edges[mel + 2] - bin) / (edges[mel + 2] - edges[mel + 1]);
      return Math.fround(Math.max(0, Math.min(rising, falling)));
    });
    const first = weights.findIndex((weight) => weight > 0);
    if (first < 0) return { first: 0, weights: [] };
    const last = weights.findLastIndex((weight) => weight > 0);
    return { first, weights: weights.slice(first, last + 1) };
  });
}

function linspace(start, stop, count) {
  return Array.from({ length: count }, (_, i) => start + ((stop - start) * i) / (count - 1));
}

class LogMel {
  constructor(settings, rate) {
    this.numMels = settings.num_mels;
    this.hop = roundHalfEven(settings.hop_seconds * rate);
    const window = roundHalfEven(settings.window_seconds * rate);
    this.size = 2 ** Math.ceil(Math.log2(window));
    this.front = Math.floor((this.size - window) / 2);
    this.window = Float32Array.from({ length: window }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / window));
    const limit = Math.floor(rate / 2);
    const highest = 2595 * Math.log10(1 + limit / 700);
    const edges = linspace(0, highest, this.numMels + 2).map((mel) => 700 * (10 ** (mel / 2595) - 1));
    this.filters = triangles(linspace(0, limit, this.size / 2 + 1), edges);
    this.transform = new Transform(this.size);
    this.frame = new Float64Array(this.size);
  }

  numFrames(numSamples) {
    return Math.floor(numSamples / this.hop) + 1;
  }

  /** Writes the log energies of frame `index` to `logs` from `at` on. */
  compute(samples, index, logs, at) {
    const { frame, window, front, size } = this;
    const begin = index * this.hop - size / 2 + front;
    frame.fill(0);
    for (let n = 0; n < window.length; n++) {
      const place = begin + n;
      if (place >= 0 && place < samples.length) frame[front + n] = samples[place] * window[n];
    }
    const power = this.transform.of(frame);
    this.filters.forEach(({ first, weights }, mel) => {
      let energy = LOG_FLOOR;
      for (let k = 0; k < weights.length; k++) energy += power[first + k] * weights[k];
      logs[at + mel] = Math.log(energy);
    });
  }
}

class KaldiFbank {
  constructor(settings, rate) {
    this.numMels = settings.num_mels;
    const samples = (seconds) =>
      Math.max(1, Math.trunc(Math.fround(Math.fround(rate * Math.fround(0.001)) * Math.fround(1000 * seconds))));
    this.hop = samples(settings.hop_seconds);
    this.length = samples(settings.window_seconds);
    this.first = Math.floor(this.hop / 2) - Math.floor(this.length / 2);
    this.size = 2 ** Math.ceil(Math.log2(this.length));
    const last = Math.max(1, this.length - 1);
    this.window = Float32Array.from({ length: this.length }, (_, n) => (0.5 - 0.5 * Math.cos((2 * Math.PI * n) / last)) ** 0.85);
    const mels = (hertz) => 1127 * Math.log1p(hertz / 700);
    const edges = linspace(mels(20), mels(rate / 2 - 400), this.numMels + 2);
    // Kaldi leaves the last bin out.
    this.filters = triangles(Array.from({ length: this.size / 2 }, (_, k) => mels((k * rate) / this.size)), edges);
    this.transform = new Transform(this.size);
    this.frame = new Float64Array(this.size);
  }

  numFrames(numSamples) {
    return Math.max(1, Math.floor((numSamples + Math.floor(this.hop / 2)) / this.hop));
  }

  compute(samples, index, logs, at) {
    const { frame, window, length } = this;
    const begin = this.first + index * this.hop;
    frame.fill(0);
    let mean = 0;
    for (let n = 0; n < length; n++) mean += frame[n] = mirrored(samples, begin + n);
    mean /= length;
    for (let n = length - 1; n > 0; n--) frame[n] = (frame[n] - mean - PREEMPHASIS * (frame[n - 1] - mean)) * window[n];
    frame[0] = 0; // Povey's window begins with 0
    const power = this.transform.of(frame);
    this.filters.forEach(({ first, weights }, mel) => {
      let energy = 0;
      for (let k = 0; k < weights.length; k++) energy += power[first + k] * weights[k];
      logs[at + mel] = Math.log(Math.max(energy, ENERGY_FLOOR));
    });
  }
}

/** A sample of a recording that goes on as in a mirror at both ends. */
function mirrored(samples, index) {
  if (!samples.length) return 0;
  const period = 2 * samples.length;
  const place = ((index % period) + period) % period;
  return samples[Math.min(place, period - 1 - place)];
}

/** Rounds as Python does, halves to the even number. */
export function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}

function normaliseSoFar(logs, mels) {
  const first = logs.slice(0, mels), sums = new Float64Array(mels), squares = new Float64Array(mels);
  for (let frame = 0; frame * mels < logs.length; frame++) {
    const seen = PRIOR_FRAMES + frame + 1;
    for (let mel = 0; mel < mels; mel++) {
      const shifted = Math.fround(logs[frame * mels + mel] - first[mel]);
      sums[mel] += shifted;
      squares[mel] += shifted * shifted;
      const mean = sums[mel] / seen;
      const variance = (PRIOR_FRAMES * PRIOR_VARIANCE + squares[mel]) / seen - mean * mean;
      logs[frame * mels + mel] = (shifted - mean) / Math.sqrt(variance + VARIANCE_FLOOR);
    }
  }
}

/** Zero mean and unit variance of each band, or of all of them together. */
function normaliseOver(logs, mels, together) {
  const count = together ? logs.length : logs.length / mels;
  const groups = together ? 1 : mels;
  const sums = new Float64Array(groups), squares = new Float64Array(groups);
  for (let i = 0; i < logs.length; i++) sums[i % groups] += logs[i];
  for (let i = 0; i < logs.length; i++) squares[i % groups] += (logs[i] - sums[i % groups] / count) ** 2;
  for (let i = 0; i < logs.length; i++) {
    const group = i % groups;
    logs[i] = (logs[i] - sums[group] / count) / Math.sqrt(squares[group] / count + VARIANCE_FLOOR);
  }
}

/** Makes features of recordings, by the settings `features` of config.json. */
export class Features {
  constructor(settings, rate) {
    this.numMels = settings.num_mels;
    this.normalise = settings.normalise;
    this.bank = settings.type === "kaldi_fbank" ? new KaldiFbank(settings, rate) : new LogMel(settings, rate);
  }

  /** Returns features, frame by frame, of samples in [-1, 1): Float32Array (frames · mels). */
  of(samples) {
    const mels = this.numMels, numFrames = this.bank.numFrames(samples.length);
    const logs = new Float32Array(numFrames * mels);
    for (let frame = 0; frame < numFrames; frame++) this.bank.compute(samples, frame, logs, frame * mels);
    if (this.normalise === "running") normaliseSoFar(logs, mels);
    else normaliseOver(logs, mels, this.normalise === "level");
    return logs;
  }
}
