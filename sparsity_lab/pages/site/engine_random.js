/* Random numbers of the page's engine, as torch and numpy draw them. */

/** The Mersenne Twister (Matsumoto and Nishimura 1998), begun from a number as torch does or from several as numpy. */
class Twister {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.place = 624;
    const s = this.state;
    s[0] = typeof seed === "number" ? seed : 19650218;
    for (let i = 1; i < 624; i++) s[i] = Math.imul(1812433253, s[i - 1] ^ (s[i - 1] >>> 30)) + i;
    if (typeof seed !== "number") this.mix(seed);
  }

  mix(key) {
    const s = this.state;
    let i = 1;
    const turn = () => {
      i++;
      if (i === 624) { s[0] = s[623]; i = 1; }
    };
    for (let k = 0; k < 624; k++) {
      const j = k % key.length;
      s[i] = (s[i] ^ Math.imul(s[i - 1] ^ (s[i - 1] >>> 30), 1664525)) + key[j] + j;
      turn();
    }
    for (let k = 0; k < 623; k++) {
      s[i] = (s[i] ^ Math.imul(s[i - 1] ^ (s[i - 1] >>> 30), 1566083941)) - i;
      turn();
    }
    s[0] = 0x80000000;
  }

  /** Returns the next whole number below 2^32. */
  next() {
    const s = this.state;
    if (this.place === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
        s[i] = s[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.place = 0;
    }
    let y = s[this.place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** Returns the next float32 in [0, 1), as torch.rand does. */
  uniform() {
    return (this.next() & 0xffffff) / 0x1000000;
  }

  /** Returns what torch.randn draws for at least 16 numbers: 16 at a time, eight radii and then eight angles; the last
   *  16 are drawn again if they are not a whole group. */
  normal(count) {
    const x = new Float32Array(count);
    const group = (start) => {
      for (let i = start; i < start + 8; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - x[i])), angle = 2 * Math.PI * x[i + 8];
        x[i] = radius * Math.cos(angle);
        x[i + 8] = radius * Math.sin(angle);
      }
    };
    for (let i = 0; i < count; i++) x[i] = this.uniform();
    for (let i = 0; i + 16 <= count; i += 16) group(i);
    if (count % 16) {
      for (let i = count - 16; i < count; i++) x[i] = this.uniform();
      group(count - 16);
    }
    return x;
  }
}

/** Returns 0 … n − 1 in the order of numpy's RandomState(key).permutation(n). */
function permutation(key, n) {
  const twister = new Twister(key), order = Int32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const mask = 2 ** (32 - Math.clz32(i)) - 1;
    let j;
    do j = (twister.next() & mask) >>> 0; while (j > i);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
