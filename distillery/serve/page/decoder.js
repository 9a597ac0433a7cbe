// The search of distillery/decoder (search.py, grammar.py, trie.py, word_model.py), step by step the
// same, so that its texts are. A test compares texts and scores.

const BLANK = 0;
const NONE = -1;
const ROOT = 0;
const NOWHERE = -1;
const SURE_BLANK = Math.log(0.999);
const NEGLIGIBLE = 30;
const SPELLING_STEPS = 16;
const SPACE = "|";
const LOWEST = Math.fround(-1e4);

/** ln(e^a + e^b) */
function add(a, b) {
  if (a < b) [a, b] = [b, a];
  return a - b > NEGLIGIBLE || b === -Infinity ? a : a + Math.log1p(Math.exp(b - a));
}

/** The text of tokens, as `Vocabulary.decode` has it. */
export function textOf(tokens, numbers) {
  const characters = numbers.filter((number) => number !== BLANK).map((number) => tokens[number]);
  return characters.join("").replaceAll(SPACE, " ").split(" ").filter(Boolean).join(" ");
}

/** Tokens of the best path. */
export function bestPath(logProbs, size) {
  const found = [];
  let before = NONE;
  for (let at = 0; at < logProbs.length; at += size) {
    let best = 0;
    for (let token = 1; token < size; token++) if (logProbs[at + token] > logProbs[at + best]) best = token;
    if (best !== before && best !== BLANK) found.push(best);
    before = best;
  }
  return found;
}

/** The n-grams of a decoder.lm. */
export class WordModel {
  static async read(content) {
    const bytes = new Uint8Array(content);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (new TextDecoder().decode(bytes.subarray(0, 4)) !== "DLM1") throw new Error("decoder.lm: no language model of this format");
    const begin = 8 + view.getUint32(4, true);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, begin)));
    const stream = new Blob([bytes.subarray(begin)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new WordModel(header, new Uint8Array(await new Response(stream).arrayBuffer()));
  }

  constructor(header, body) {
    this.order = header.order;
    this.byWords = header.unit === "word";
    const words = new TextDecoder().decode(body.subarray(0, header.words_bytes));
    this.words = words.split("\n").slice(0, -1);
    this.number = new Map(this.words.map((word, number) => [word, number]));
    [this.unknown, this.start, this.end] = [0, 1, 2].map((n) => this.words.length + n);
    this.letters = new Map([...header.letters].map((letter, place) => [letter, place]));
    this.answers = new Map();
    let place = header.words_bytes;
    const take = (kind, count) => {
      const size = { u1: 1, u2: 2, u4: 4, f4: 4 }[kind];
      const part = body.slice(place, place + count * size).buffer; // its own, so aligned
      place += count * size;
      return new { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array }[kind](part);
    };
    const size = this.letters.size + 1;
    this.spelling = Array.from({ length: size }, () => take("u1", size));
    this.levels = header.counts.map((count, n) => {
      const level = { words: take(header.word_type, count), chances: take("u1", count), chanceTable: take("f4", 256) };
      if (n + 1 < header.order) {
        level.backoffs = take("u1", count);
        level.backoffTable = take("f4", 256);
        level.starts = new Uint32Array(count + 1);
        take(header.child_types[n], count).forEach((children, i) => (level.starts[i + 1] = level.starts[i] + children));
      }
      return level;
    });
    if (place !== body.length) throw new Error(`decoder.lm: ${body.length - place} bytes too many`);
  }

  get begin() {
    return this.order > 1 ? [this.start] : [];
  }

  /** ln P(word | state) and the state behind the word. */
  score(state, word) {
    const key = `${state.join(" ")}|${word}`;
    let found = this.answers.get(key);
    if (found === undefined) {
      if (this.answers.size > 200000) this.answers.clear();
      this.answers.set(key, (found = this.#lookUp(state, word)));
    }
    return found;
  }

  /** ln P(letter | former) inside a word; "" is a word's end and start. */
  spellingScore(letter, former) {
    const last = this.letters.size;
    return -this.spelling[this.letters.get(former) ?? last][this.letters.get(letter) ?? last] / SPELLING_STEPS;
  }

  bestChance(word) {
    return this.levels[0].chanceTable[this.levels[0].chances[word]];
  }

  #lookUp(state, word) {
    let total = 0, context = state, place;
    for (;;) {
      place = this.#find([...context, word]);
      if (place !== null || !context.length) break;
      const at = this.#find(context);
      const level = this.levels[context.length - 1];
      if (at !== null) total += level.backoffTable[level.backoffs[at]];
      context = context.slice(1);
    }
    const level = this.levels[context.length];
    return { chance: total + level.chanceTable[level.chances[place]], state: this.#behind([...context, word]) };
  }

  #behind(words) {
    if (words.length >= this.order) words = words.slice(words.length - this.order + 1);
    for (; words.length; words = words.slice(1)) {
      const at = this.#find(words);
      if (at === null) continue;
      const { starts } = this.levels[words.length - 1];
      if (starts[at] < starts[at + 1]) return words;
    }
    return [];
  }

  #find(words) {
    let place = words[0];
    for (let n = 1; n < words.length; n++) {
      const { starts } = this.levels[n - 1], longer = this.levels[n].words;
      let low = starts[place], high = starts[place + 1];
      const stop = high;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (longer[middle] < words[n]) low = middle + 1;
        else high = middle;
      }
      if (low === stop || longer[low] !== words[n]) return null;
      place = low;
    }
    return place;
  }
}

class Trie {
  constructor(numLetters) {
    this.numLetters = numLetters;
    this.next = new Map();
    this.word = [NONE];
    this.best = [-Infinity];
  }

  add(spelling, word, score, bonus = 0) {
    const base = score;
    let node = ROOT;
    this.best[node] = Math.max(this.best[node], score);
    spelling.forEach((letter, place) => {
      score = base + (bonus * (place + 1)) / spelling.length;
      const key = node * this.numLetters + letter;
      node = this.next.get(key) ?? this.word.length;
      if (node === this.word.length) {
        this.next.set(key, node);
        this.word.push(NONE);
        this.best.push(score);
      } else if (this.best[node] < score) this.best[node] = score;
    });
    this.word[node] = word;
  }
}

/** Hot words and phrases as paths of words. */
class Phrases {
  constructor(phrases) {
    this.next = new Map();
    this.given = [0];
    this.kept = [0];
    for (const { words, weight } of [...phrases].sort((a, b) => a.words.length - b.words.length)) {
      let node = ROOT;
      words.forEach((word, place) => {
        const key = `${node} ${word}`;
        if (!this.next.has(key)) {
          this.next.set(key, this.given.length);
          this.given.push(this.kept[node]);
          this.kept.push(this.kept[node]);
        }
        node = this.next.get(key);
        this.given[node] = Math.max(this.given[node], (weight * (place + 1)) / words.length);
      });
      this.given[node] = this.kept[node] = Math.max(weight, this.kept[node]);
    }
  }

  after(state, word) {
    let after = this.next.get(`${state} ${word}`), added = 0;
    if (after !== undefined) return [this.given[after] - this.given[state], after];
    if (state !== ROOT) {
      added = this.broken(state);
      after = this.next.get(`${ROOT} ${word}`);
    }
    return after === undefined ? [added, ROOT] : [added + this.given[after], after];
  }

  broken(state) {
    return this.kept[state] - this.given[state];
  }

  share(word) {
    const after = this.next.get(`${ROOT} ${word}`);
    return after === undefined ? 0 : this.given[after];
  }
}

class Prefix {
  constructor(parent, token, node, state, phrase, score, ahead, spelt) {
    Object.assign(this, { parent, token, node, state, phrase, score, ahead, spelt });
    this.children = new Map();
    this.blank = this.other = this.newBlank = this.newOther = this.rank = -Infinity;
    this.stamp = -1;
  }

  get tokens() {
    const found = [];
    for (let at = this; at.parent !== null; at = at.parent) found.push(at.token);
    return found.reverse();
  }
}

/** What texts score before anything is heard. */
class Grammar {
  constructor(model, tokens, settings) {
    this.model = model;
    this.tokens = tokens;
    this.weights = settings.weights;
    this.boundary = tokens.indexOf(SPACE);
    this.byWords = model.byWords;
    // Tokens are letters or pieces of words; a word's first piece has the boundary in front of it.
    const spelt = tokens.map((token, number) => (number === BLANK ? [] : [...token].filter((letter) => letter !== SPACE)));
    this.beginsWord = tokens.map((token) => token.startsWith(SPACE));
    this.letters = [...new Set(spelt.flat())].sort(byCodePoints);
    this.numberOf = new Map(this.letters.map((letter, number) => [letter, number]));
    this.lettersOf = spelt.map((letters) => letters.map((letter) => this.numberOf.get(letter)));
    this.isOpen = this.weights.unknown_score !== null && this.weights.unknown_score !== undefined;
    this.extra = [];
    this.typical = -Math.log(Math.max(1, model.words.length));
    const phrases = settings.hot_words.map(({ text, weight }) => ({
      words: this.byWords ? text.split(" ").filter(Boolean) : [...text.replaceAll(" ", SPACE)],
      weight,
    }));
    this.phrases = new Phrases(phrases);
    this.hasPhrases = phrases.length > 0;
    this.rootAhead = 0;
    this.tokenGain = 0;
    if (this.byWords) {
      this.trie = this.#lexicon();
      this.#addHotWords(new Set(phrases.flatMap(({ words }) => words)));
      if (this.trie.next.size) this.rootAhead = this.trie.best[ROOT];
      if (this.isOpen) {
        const letters = [...this.letters, ""];
        this.spelling = letters.map((former) => letters.map((letter) => model.spellingScore(letter, former)));
      }
    }
  }

  /** Of the table of letters; NONE is a word's start and end. */
  #spelt(former, letter) {
    const last = this.letters.length;
    return this.spelling[former === NONE ? last : former][letter === NONE ? last : letter];
  }

  /** The last letter of a token. */
  #lastLetter(token) {
    return this.lettersOf[token].at(-1) ?? NONE;
  }

  get root() {
    const root = new Prefix(null, NONE, ROOT, this.model.begin, ROOT, 0, this.rootAhead, 0);
    root.blank = 0;
    return root;
  }

  extend(prefix, token) {
    if (!this.byWords) return this.#withCharacters(prefix, token);
    if (token === this.boundary) return prefix.node === ROOT ? null : this.#withWord(prefix);
    const { trie } = this;
    let behind = prefix;
    if (prefix.node !== ROOT && this.beginsWord[token]) {
      behind = this.#withWord(prefix);
      if (behind === null) return null;
    }
    let { node, spelt } = behind, former = node === ROOT ? NONE : this.#lastLetter(behind.token);
    for (const letter of this.lettersOf[token]) {
      if (node !== NOWHERE) node = trie.next.get(node * trie.numLetters + letter) ?? NOWHERE;
      if (this.isOpen) {
        spelt += this.#spelt(former, letter);
        former = letter;
      } else if (node === NOWHERE) return null;
    }
    const ahead = node !== NOWHERE ? trie.best[node] : this.#unknown(behind.state, spelt);
    return new Prefix(prefix, token, node, behind.state, behind.phrase, behind.score, ahead, spelt);
  }

  /** A prefix as it is when its last word is whole; null where it cannot be. */
  whole(prefix) {
    return this.byWords && prefix.node !== ROOT ? this.#withWord(prefix) : prefix;
  }

  finalScore(prefix) {
    const whole = this.whole(prefix);
    if (whole === null) return -Infinity;
    const { chance } = this.model.score(whole.state, this.model.end);
    return whole.score + this.weights.weight * chance + this.phrases.broken(whole.phrase);
  }

  #withWord(prefix) {
    const { model, weights } = this;
    const word = prefix.node === NOWHERE ? NONE : this.trie.word[prefix.node];
    let { score, phrase } = prefix, text = "", state;
    if (word === NONE) {
      if (!this.isOpen) return null;
      score += this.#unknown(prefix.state, prefix.spelt + this.#spelt(this.#lastLetter(prefix.token), NONE));
      ({ state } = model.score(prefix.state, model.unknown));
    } else if (word < model.words.length) {
      const found = model.score(prefix.state, word);
      state = found.state;
      score += weights.weight * found.chance + weights.word_score;
      text = model.words[word];
    } else {
      ({ state } = model.score(prefix.state, model.unknown));
      score += weights.weight * this.typical + weights.word_score;
      text = this.extra[word - model.words.length];
    }
    if (this.hasPhrases) {
      const [added, after] = this.phrases.after(phrase, text);
      score += added;
      phrase = after;
    }
    return new Prefix(prefix, this.boundary, ROOT, state, phrase, score, this.rootAhead, 0);
  }

  #withCharacters(prefix, token) {
    let characters = [...this.tokens[token]];
    if (this.beginsWord[token] && (prefix.token === NONE || prefix.token === this.boundary)) {
      characters = characters.slice(1);
      if (!characters.length) return null;
    }
    let { score, state, phrase } = prefix;
    for (const character of characters) {
      const found = this.model.score(state, this.model.number.get(character) ?? this.model.unknown);
      state = found.state;
      score += this.weights.weight * found.chance;
      if (character !== SPACE) score += this.weights.word_score;
      if (this.hasPhrases) {
        const [added, after] = this.phrases.after(phrase, character);
        score += added;
        phrase = after;
      }
    }
    return new Prefix(prefix, token, ROOT, state, phrase, score, 0, 0);
  }

  #unknown(state, spelt) {
    const { chance } = this.model.score(state, this.model.unknown);
    return this.weights.weight * chance + this.weights.word_score + (this.weights.unknown_score || 0) + spelt;
  }

  #lexicon() {
    const trie = new Trie(this.letters.length);
    this.model.words.forEach((text, word) => {
      const spelling = this.#spelled(text);
      if (spelling.length) trie.add(spelling, word, this.weights.weight * this.model.bestChance(word) + this.weights.word_score);
    });
    return trie;
  }

  #addHotWords(words) {
    const most = Math.max(...this.lettersOf.map((letters) => letters.length));
    for (const text of [...words].sort(byCodePoints)) {
      let word = this.model.number.get(text);
      const chance = word === undefined ? this.typical : this.model.bestChance(word);
      if (word === undefined) {
        word = this.model.words.length + this.extra.length;
        this.extra.push(text);
      }
      const spelling = this.#spelled(text), bonus = this.phrases.share(text);
      this.trie.add(spelling, word, this.weights.weight * chance + this.weights.word_score, bonus);
      this.tokenGain = Math.max(this.tokenGain, (bonus * most) / spelling.length);
    }
  }

  #spelled(word) {
    const found = [...word].map((letter) => this.numberOf.get(letter));
    return found.includes(undefined) ? [] : found;
  }
}

function byCodePoints(a, b) {
  const [left, right] = [[...a], [...b]];
  const at = left.findIndex((letter, place) => letter !== right[place]);
  if (at < 0) return left.length - right.length;
  return at < right.length ? left[at].codePointAt(0) - right[at].codePointAt(0) : 1;
}

/** One utterance on its way through the search. */
class Search {
  constructor(grammar) {
    this.grammar = grammar;
    this.numFrames = 0;
    this.settled = grammar.root;
    this.beams = [this.settled];
  }

  /** Goes on with frames: Float32Array (frames · vocab). */
  push(logProbs, size) {
    const threshold = Math.fround(this.grammar.weights.beam_threshold);
    for (let at = 0; at < logProbs.length; at += size) {
      const frame = logProbs.subarray(at, at + size);
      if (frame[BLANK] > SURE_BLANK) {
        for (const prefix of this.beams) {
          prefix.blank = add(prefix.blank, prefix.other) + frame[BLANK];
          prefix.other = -Infinity;
        }
      } else {
        const floor = Math.fround(Math.max(...frame) - threshold);
        const row = Array.from(frame, (value) => Math.max(value, LOWEST));
        const tokens = [];
        for (let token = 0; token < size; token++) if (token !== BLANK && frame[token] > floor) tokens.push(token);
        this.#step(row, tokens.sort((a, b) => row[a] - row[b]).reverse());
      }
      this.numFrames++;
      if (this.numFrames % 256 === 0) this.#forget();
    }
  }

  #step(row, tokens) {
    const { grammar, beams, numFrames: stamp } = this;
    const { boundary } = grammar, threshold = grammar.weights.beam_threshold;
    const reached = [];
    let best = -Infinity;
    for (const prefix of beams) {
      const total = add(prefix.blank, prefix.other), { token } = prefix;
      prefix.stamp = stamp;
      prefix.newBlank = total + row[BLANK];
      prefix.newOther = -Infinity;
      if (prefix.node === ROOT && (token === NONE || token === boundary)) {
        if (boundary !== NONE) prefix.newOther = total + row[boundary];
      } else prefix.newOther = prefix.other + row[token];
      reached.push(prefix);
      best = Math.max(best, Math.max(prefix.newBlank, prefix.newOther) + prefix.score + prefix.ahead);
    }
    for (const prefix of beams) {
      const total = add(prefix.blank, prefix.other), { children } = prefix;
      const promised = total + prefix.score + prefix.ahead + grammar.tokenGain;
      for (const token of tokens) {
        const heard = row[token];
        if (promised + heard < best - threshold && !grammar.beginsWord[token]) continue;
        const score = (token === prefix.token ? prefix.blank : total) + heard;
        let child = children.get(token);
        if (child === undefined) children.set(token, (child = grammar.extend(prefix, token)));
        if (child === null) continue;
        const rank = score + child.score + child.ahead;
        if (rank < best - threshold) continue;
        if (rank > best) best = rank;
        if (child.stamp !== stamp) {
          child.stamp = stamp;
          child.newBlank = -Infinity;
          child.newOther = score;
          reached.push(child);
        } else child.newOther = add(child.newOther, score);
      }
    }
    this.#keep(reached, best - threshold);
  }

  #keep(reached, floor) {
    for (const prefix of reached) {
      prefix.blank = prefix.newBlank;
      prefix.other = prefix.newOther;
      prefix.rank = add(prefix.blank, prefix.other) + prefix.score + prefix.ahead;
    }
    const kept = reached.filter((prefix) => prefix.rank >= floor);
    kept.sort((a, b) => (a.rank === b.rank ? 0 : b.rank - a.rank));
    this.beams = kept.slice(0, this.grammar.weights.beam_size);
  }

  /** Lets go of prefixes that no beam begins with. */
  #forget() {
    const live = new Set([this.settled]);
    for (const prefix of this.beams) {
      for (let at = prefix; at !== null && !live.has(at); at = at.parent) live.add(at);
    }
    for (const prefix of live) {
      for (const [token, child] of prefix.children) if (!live.has(child)) prefix.children.delete(token);
    }
  }

  /** The best text, its tokens and its score. */
  finish() {
    let best = null;
    for (const prefix of this.beams) {
      const final = this.grammar.finalScore(prefix);
      if (final === -Infinity) continue;
      const found = this.#hypothesis(prefix, final);
      if (best === null || found.score > best.score || (found.score === best.score && byCodePoints(found.text, best.text) < 0)) best = found;
    }
    if (best !== null) return best;
    let [prefix] = this.beams, isLast = true;
    while (prefix.node !== ROOT && prefix.parent !== null && isLast) {
      isLast = !this.grammar.beginsWord[prefix.token];
      prefix = prefix.parent;
    }
    return this.#hypothesis(prefix, (this.grammar.whole(prefix) ?? prefix).score);
  }

  #hypothesis(prefix, score) {
    const { tokens } = prefix;
    return { text: textOf(this.grammar.tokens, tokens), tokens, score: add(prefix.blank, prefix.other) + score };
  }
}

/** Log-probabilities to texts, with the words and weights of a decoder.lm and a decoder.json. */
export class Decoder {
  constructor(model, tokens, settings) {
    this.tokens = tokens;
    this.grammar = new Grammar(model, tokens, settings);
  }

  /** The best text of windows of frames, each Float32Array (frames · vocab). */
  decode(windows) {
    const search = new Search(this.grammar);
    for (const logProbs of windows) search.push(logProbs, this.tokens.length);
    return search.finish();
  }
}
