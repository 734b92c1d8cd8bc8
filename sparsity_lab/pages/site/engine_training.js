/* The lab's training in plain JavaScript, for pages without Python. Its parts are joined into one script:
 * engine_random.js, engine_products.js, engine_model.js and this file.
 *
 * For a seed it computes what `sparsity_lab.training` computes with torch, up to rounding: the same weights (torch's
 * random numbers), the same batches (numpy's), the same loss, clipping, AdamW and learning rate. Only the dial's models
 * are built: one active expert per token, chosen by a softmax; full attention; a head for each key and value.
 */

const BETA1 = 0.9, BETA2 = 0.95, ADAM_EPS = 1e-8;

/** One run: call `step` until `done`, then `evaluate`. `run` has the fields of the lab's resolved RunConfig, `text` the
 *  bytes to train on and the held-out ones (`train` and `val`, Uint8Array). */
class Training {
  constructor(config, run, steps, text) {
    Object.assign(this, { config, run, steps, text, stepsDone: 0 });
    this.model = new Model(config, run.seed, run.batch_size);
    this.windows = Math.floor((text.train.length - 1) / config.context);
    this.orders = new Map();
  }

  get done() {
    return this.stepsDone === this.steps;
  }

  /** Trains on the next batch; returns its loss in nats per byte. */
  step() {
    const { tokens, targets } = this.batch(this.stepsDone);
    const { loss } = this.model.loss(tokens, targets);
    this.model.backward();
    this.update(this.rate(this.stepsDone));
    this.stepsDone++;
    return loss;
  }

  batch(step) {
    const B = this.run.batch_size, numbers = Array.from({ length: B }, (_, i) => step * B + i);
    return this.cut(this.text.train, numbers.map((i) => this.order(Math.floor(i / this.windows))[i % this.windows]));
  }

  order(epoch) {
    if (!this.orders.has(epoch)) this.orders.set(epoch, permutation([this.run.seed, epoch], this.windows));
    return this.orders.get(epoch);
  }

  cut(data, windows) {
    const T = this.config.context, tokens = new Uint8Array(windows.length * T), targets = tokens.slice();
    windows.forEach((window, i) => {
      tokens.set(data.subarray(window * T, (window + 1) * T), i * T);
      targets.set(data.subarray(window * T + 1, (window + 1) * T + 1), i * T);
    });
    return { tokens, targets };
  }

  /** A linear warmup and a linear decay. */
  rate(step) {
    const { learning_rate: peak, warmup, decay } = this.run;
    return peak * Math.min(1, (step + 1) / (warmup * this.steps + 1), (this.steps - step) / (decay * this.steps + 1));
  }

  /** AdamW, on gradients that are scaled down if their norm over all parameters is too large. */
  update(rate) {
    const parameters = [...this.model.parameters.values()], step = this.stepsDone + 1;
    let squares = 0;
    for (const { gradient } of parameters) for (let i = 0; i < gradient.length; i++) squares += gradient[i] ** 2;
    const scale = Math.max(1, Math.sqrt(squares) / this.run.grad_clip);
    const size = rate / (1 - BETA1 ** step), root = Math.sqrt(1 - BETA2 ** step);

    for (const { value, gradient, mean, square, decays } of parameters) {
      const kept = decays ? 1 - rate * this.run.weight_decay : 1;
      for (let i = 0; i < value.length; i++) {
        const g = gradient[i] / scale;
        mean[i] += (g - mean[i]) * (1 - BETA1);
        square[i] = BETA2 * square[i] + (1 - BETA2) * g * g;
        value[i] = value[i] * kept - size * mean[i] / (Math.sqrt(square[i]) / root + ADAM_EPS);
      }
    }
  }

  /** Returns the mean cross-entropy on held-out text, in nats per byte. */
  evaluate() {
    const T = this.config.context, available = Math.floor((this.text.val.length - 1) / T);
    const n = Math.min(available, Math.floor(this.run.eval_tokens / T));
    const windows = Array.from({ length: n }, (_, i) => Math.floor(i * available / n));
    let total = 0;
    for (let i = 0; i < n; i += this.run.batch_size) {
      const some = windows.slice(i, i + this.run.batch_size), { tokens, targets } = this.cut(this.text.val, some);
      total += this.model.loss(tokens, targets).loss * some.length;
    }
    return total / n;
  }
}
