/* The model of the page's engine: the transformers of the lab's dial, with their gradients.
 *
 * Legend: B sequences, T tokens of a sequence, N = B·T, D model width, H heads, C width of a head, E experts, F hidden
 * width of an expert, V vocabulary; S are tokens sorted by expert. Arrays are rows side by side: x_ND[n * D + d].
 */

const BLOCK = 16; // rows of attention scores that are computed together

const floats = (count) => new Float32Array(count);

/** A decoder of `config` (the fields of the lab's ModelConfig), with the weights that `seed` gives in the lab. */
class Model {
  constructor(config, seed, sequences) {
    const { vocab_size: V, context: T, d_model: D, n_layers: L, n_heads: H, n_experts: E, d_expert: F } = config;
    Object.assign(this, { config, V, T, D, L, H, E, F, C: D / H, B: sequences, parameters: new Map() });

    // in the order in which the lab draws them
    const twister = new Twister(seed);
    const drawn = (name, count, scale) => {
      return this.declare(name, twister.normal(count).map((x) => x * Math.fround(scale)), true);
    };
    const ones = (name, count) => this.declare(name, new Float32Array(count).fill(1), false);
    this.embedding = drawn("embedding", V * D, 0.02);
    this.layers = Array.from({ length: L }, (_, i) => ({
      attentionNorm: ones(`layers.${i}.attention_norm`, D),
      qkv: drawn(`layers.${i}.attention.qkv`, 3 * D * D, D ** -0.5),
      out: drawn(`layers.${i}.attention.out`, D * D, (2 * D * L) ** -0.5),
      qNorm: ones(`layers.${i}.attention.q_norm`, this.C),
      kNorm: ones(`layers.${i}.attention.k_norm`, this.C),
      moeNorm: ones(`layers.${i}.moe_norm`, D),
      router: E > 1 ? drawn(`layers.${i}.moe.router.weight`, E * D, D ** -0.5) : null,
      gateUp: drawn(`layers.${i}.moe.experts.gate_up_EDG`, E * D * 2 * F, D ** -0.5),
      down: drawn(`layers.${i}.moe.experts.down_EFD`, E * F * D, (2 * F * L) ** -0.5),
      ...this.room(),
    }));
    this.finalNorm = ones("final_norm", D);
    this.head = drawn("head", V * D, 0.02);

    const N = this.B * T;
    this.x_ND = floats(N * D);
    this.r_N = floats(N);
    this.h_ND = floats(N * D);
    this.logits_NV = floats(N * V);
    this.turns = this.rotations();
    this.scratch = { // of the backward pass
      x: floats(N * D), y: floats(N * D), q: floats(N * D), k: floats(N * D), qkv: floats(3 * N * D),
      u: floats(2 * N * F), f: floats(N * F), p: floats(BLOCK * T), e: floats(N * E),
    };
  }

  declare(name, value, decays) {
    const n = value.length;
    const parameter = { name, value, decays, gradient: floats(n), mean: floats(n), square: floats(n) };
    this.parameters.set(name, parameter);
    return parameter;
  }

  /** Memory for what the backward pass of a layer needs. */
  room() {
    const { B, T, D, H, E, F } = this, N = B * T;
    return {
      x_ND: floats(N * D), h_ND: floats(N * D), r_N: floats(N), // into attention
      q_ND: floats(N * D), k_ND: floats(N * D), v_ND: floats(N * D), qr_NH: floats(N * H), kr_NH: floats(N * H),
      turnedQ_ND: floats(N * D), turnedK_ND: floats(N * D), p_BHTT: floats(B * H * T * T), y_ND: floats(N * D),
      x2_ND: floats(N * D), h2_ND: floats(N * D), r2_N: floats(N), // into the experts
      probs_NE: floats(N * E), lse_N: floats(N), expert_N: new Int32Array(N), counts_E: new Int32Array(E),
      token_S: new Int32Array(N), xs_SD: floats(N * D), u_SG: floats(2 * N * F), f_SF: floats(N * F),
      ys_SD: floats(N * D),
    };
  }

  /** Cosine and sine of each position and pair, (T, C/2, 2), from float32 angles as in the lab. */
  rotations() {
    const { T, C } = this, turns = new Float32Array(T * C);
    for (let t = 0; t < T; t++) {
      for (let c = 0; c < C; c += 2) {
        const angle = Math.fround(t * Math.fround(this.config.rope_base ** -Math.fround(c / C)));
        turns[t * C + c] = Math.cos(angle);
        turns[t * C + c + 1] = Math.sin(angle);
      }
    }
    return turns;
  }

  /** Turns pairs of each head by their position, or back with way = −1. May work in place. */
  rotate(out, x, way) {
    const { B, T, D, C } = this;
    for (let n = 0; n < B * T; n++) {
      for (let d = 0; d < D; d += 2) {
        const turn = (n % T) * C + (d % C), cos = this.turns[turn], sin = way * this.turns[turn + 1];
        const a = x[n * D + d], b = x[n * D + d + 1];
        out[n * D + d] = a * cos - b * sin;
        out[n * D + d + 1] = a * sin + b * cos;
      }
    }
  }

  /** Returns the mean cross-entropy of N tokens against the next ones, and what a training adds to it for the routers.
   *  Both Uint8Array. Keeps what `backward` needs. */
  loss(tokens, targets) {
    const { D, V } = this, N = tokens.length;
    this.tokens = tokens;
    this.targets = targets;
    let x_ND = this.layers[0].x_ND, auxiliary = 0;
    for (let n = 0; n < N; n++) {
      for (let d = 0; d < D; d++) x_ND[n * D + d] = this.embedding.value[tokens[n] * D + d];
    }
    this.layers.forEach((layer, i) => {
      this.attention(layer, N);
      const next = i + 1 < this.L ? this.layers[i + 1].x_ND : this.x_ND;
      auxiliary += this.experts(layer, next, N);
    });
    rmsNorm(this.h_ND, this.r_N, this.x_ND, this.finalNorm.value, N, D);
    multiply(at(this.logits_NV, 0, V), at(this.h_ND, 0, D), at(this.head.value, 0, 1, D), N, D, V);

    // logits become probabilities
    let total = 0;
    for (let n = 0; n < N; n++) {
      const logit = this.logits_NV[n * V + targets[n]];
      total += softmax(this.logits_NV, n * V, V) - logit;
    }
    return { loss: total / N, auxiliary };
  }

  attention(layer, N) {
    const { T, D, H, C } = this, { qkv } = this.scratch;
    rmsNorm(layer.h_ND, layer.r_N, layer.x_ND, layer.attentionNorm.value, N, D);
    multiply(at(qkv, 0, 3 * D), at(layer.h_ND, 0, D), at(layer.qkv.value, 0, 1, D), N, D, 3 * D);
    for (let n = 0; n < N; n++) {
      for (let d = 0; d < D; d++) {
        layer.q_ND[n * D + d] = qkv[n * 3 * D + d];
        layer.k_ND[n * D + d] = qkv[n * 3 * D + D + d];
        layer.v_ND[n * D + d] = qkv[n * 3 * D + 2 * D + d];
      }
    }
    rmsNorm(layer.turnedQ_ND, layer.qr_NH, layer.q_ND, layer.qNorm.value, N * H, C);
    rmsNorm(layer.turnedK_ND, layer.kr_NH, layer.k_ND, layer.kNorm.value, N * H, C);
    this.rotate(layer.turnedQ_ND, layer.turnedQ_ND, 1);
    this.rotate(layer.turnedK_ND, layer.turnedK_ND, 1);

    const scale = 1 / Math.sqrt(C);
    this.eachBlock(N, (at0, p0, from, rows, seen) => {
      const p = at(layer.p_BHTT, p0 + from * T, T), block = at0 + from * D;
      multiply(p, at(layer.turnedQ_ND, block, D), at(layer.turnedK_ND, at0, 1, D), rows, C, seen);
      for (let i = 0; i < rows; i++) {
        const start = p.start + i * T, own = from + i + 1;
        for (let s = 0; s < own; s++) p.data[start + s] *= scale;
        softmax(p.data, start, own);
        p.data.fill(0, start + own, start + seen); // the future
      }
      multiply(at(layer.y_ND, block, D), p, at(layer.v_ND, at0, D), rows, seen, C);
    });
    multiply(at(layer.x2_ND, 0, D), at(layer.y_ND, 0, D), at(layer.out.value, 0, 1, D), N, D, D);
    for (let i = 0; i < N * D; i++) layer.x2_ND[i] += layer.x_ND[i];
  }

  /** Calls back for each sequence, head and block of rows: where the head's vectors and scores start, the first row,
   *  the number of rows, and how many positions the last of them sees. */
  eachBlock(N, work) {
    const { T, D, H, C } = this;
    for (let b = 0; b < N / T; b++) {
      for (let h = 0; h < H; h++) {
        for (let from = 0; from < T; from += BLOCK) {
          const rows = Math.min(BLOCK, T - from);
          work(b * T * D + h * C, (b * H + h) * T * T, from, rows, from + rows);
        }
      }
    }
  }

  /** Writes x2 + experts(x2) to out; returns the router's weighted losses. */
  experts(layer, out, N) {
    const { D, E, F } = this;
    rmsNorm(layer.h2_ND, layer.r2_N, layer.x2_ND, layer.moeNorm.value, N, D);
    const auxiliary = this.route(layer, N);

    // rows sorted by expert
    const place_E = new Int32Array(E);
    for (let e = 1; e < E; e++) place_E[e] = place_E[e - 1] + layer.counts_E[e - 1];
    for (let n = 0; n < N; n++) layer.token_S[place_E[layer.expert_N[n]]++] = n;
    this.gather(layer.xs_SD, layer.h2_ND, layer, N);

    this.eachExpert(layer, (e, s, count) => {
      const u = at(layer.u_SG, s * 2 * F, 2 * F), f = at(layer.f_SF, s * F, F);
      multiply(u, at(layer.xs_SD, s * D, D), at(layer.gateUp.value, e * D * 2 * F, 2 * F), count, D, 2 * F);
      for (let i = s; i < s + count; i++) {
        for (let j = 0; j < F; j++) {
          const gate = layer.u_SG[i * 2 * F + j];
          layer.f_SF[i * F + j] = gate / (1 + Math.exp(-gate)) * layer.u_SG[i * 2 * F + F + j];
        }
      }
      multiply(at(layer.ys_SD, s * D, D), f, at(layer.down.value, e * F * D, D), count, F, D);
    });
    for (let s = 0; s < N; s++) {
      const n = layer.token_S[s], weight = this.weight(layer, n);
      for (let d = 0; d < D; d++) out[n * D + d] = layer.x2_ND[n * D + d] + weight * layer.ys_SD[s * D + d];
    }
    return auxiliary;
  }

  /** Chooses an expert for each token: the one with the largest probability, which is also its weight. */
  route(layer, N) {
    const { D, E } = this;
    layer.counts_E.fill(0);
    if (E === 1) {
      layer.expert_N.fill(0);
      layer.counts_E[0] = N;
      return 0;
    }
    const probs = layer.probs_NE, share_E = new Float64Array(E);
    multiply(at(probs, 0, E), at(layer.h2_ND, 0, D), at(layer.router.value, 0, 1, D), N, D, E);
    let squares = 0;
    for (let n = 0; n < N; n++) {
      layer.lse_N[n] = softmax(probs, n * E, E);
      squares += layer.lse_N[n] ** 2;
      let best = 0;
      for (let e = 0; e < E; e++) {
        share_E[e] += probs[n * E + e] / N;
        if (probs[n * E + e] > probs[n * E + best]) best = e;
      }
      layer.expert_N[n] = best;
      layer.counts_E[best]++;
    }
    let balance = 0;
    for (let e = 0; e < E; e++) balance += E * layer.counts_E[e] / N * share_E[e];
    return this.config.balance_loss * balance + this.config.z_loss * squares / N;
  }

  weight(layer, n) {
    return this.E === 1 ? 1 : layer.probs_NE[n * this.E + layer.expert_N[n]];
  }

  gather(out, x, layer, N) {
    const { D } = this;
    for (let s = 0; s < N; s++) {
      const n = layer.token_S[s];
      for (let d = 0; d < D; d++) out[s * D + d] = x[n * D + d];
    }
  }

  eachExpert(layer, work) {
    for (let e = 0, s = 0; e < this.E; s += layer.counts_E[e++]) {
      if (layer.counts_E[e]) work(e, s, layer.counts_E[e]);
    }
  }

  // ---- Gradients

  /** Computes the gradient of loss + auxiliary of the last call of `loss`, for every parameter. */
  backward() {
    const { D, V } = this, N = this.tokens.length, g = this.scratch.x.fill(0), dh = this.scratch.y;
    for (const parameter of this.parameters.values()) parameter.gradient.fill(0);

    for (let n = 0; n < N; n++) this.logits_NV[n * V + this.targets[n]] -= 1;
    for (let i = 0; i < N * V; i++) this.logits_NV[i] /= N;
    multiply(at(this.head.gradient, 0, D), at(this.logits_NV, 0, 1, V), at(this.h_ND, 0, D), V, N, D, true);
    multiply(at(dh, 0, D), at(this.logits_NV, 0, V), at(this.head.value, 0, D), N, V, D);
    rmsNormBackward(g, this.finalNorm.gradient, dh, this.r_N, this.x_ND, this.finalNorm.value, N, D);

    for (const layer of [...this.layers].reverse()) { // g goes from a layer's output to its input
      this.expertsBackward(layer, g, N);
      this.attentionBackward(layer, g, N);
    }
    for (let n = 0; n < N; n++) {
      for (let d = 0; d < D; d++) this.embedding.gradient[this.tokens[n] * D + d] += g[n * D + d];
    }
  }

  expertsBackward(layer, g, N) {
    const { D, E, F } = this, { y: dh, q: gs, k: dx, u: du, f: df, e: dlogits } = this.scratch;
    this.gather(gs, g, layer, N);
    const dweight_S = new Float32Array(N);
    for (let s = 0; s < N; s++) {
      const weight = this.weight(layer, layer.token_S[s]);
      for (let d = 0; d < D; d++) {
        dweight_S[s] += gs[s * D + d] * layer.ys_SD[s * D + d];
        gs[s * D + d] *= weight;
      }
    }

    this.eachExpert(layer, (e, s, count) => {
      const out = at(gs, s * D, D), gateUp = e * D * 2 * F, down = e * F * D;
      multiply(at(layer.down.gradient, down, D), at(layer.f_SF, s * F, 1, F), out, F, count, D, true);
      multiply(at(df, s * F, F), out, at(layer.down.value, down, 1, D), count, D, F);
      for (let i = s; i < s + count; i++) {
        for (let j = 0; j < F; j++) {
          const gate = layer.u_SG[i * 2 * F + j], up = layer.u_SG[i * 2 * F + F + j];
          const sigmoid = 1 / (1 + Math.exp(-gate));
          du[i * 2 * F + j] = df[i * F + j] * up * sigmoid * (1 + gate * (1 - sigmoid));
          du[i * 2 * F + F + j] = df[i * F + j] * gate * sigmoid;
        }
      }
      const u = at(du, s * 2 * F, 2 * F);
      multiply(at(layer.gateUp.gradient, gateUp, 2 * F), at(layer.xs_SD, s * D, 1, D), u, D, count, 2 * F, true);
      multiply(at(dx, s * D, D), u, at(layer.gateUp.value, gateUp, 1, 2 * F), count, 2 * F, D);
    });
    for (let s = 0; s < N; s++) {
      for (let d = 0; d < D; d++) dh[layer.token_S[s] * D + d] = dx[s * D + d];
    }
    if (E > 1) {
      this.routeBackward(layer, dlogits, dweight_S, N);
      multiply(at(layer.router.gradient, 0, D), at(dlogits, 0, 1, E), at(layer.h2_ND, 0, D), E, N, D, true);
      multiply(at(dh, 0, D), at(dlogits, 0, E), at(layer.router.value, 0, D), N, E, D, true);
    }
    rmsNormBackward(g, layer.moeNorm.gradient, dh, layer.r2_N, layer.x2_ND, layer.moeNorm.value, N, D);
  }

  /** Through the weight of the chosen expert, the balance loss (the load itself has no gradient) and the z-loss. */
  routeBackward(layer, dlogits, dweight_S, N) {
    const { E } = this, { balance_loss: balance, z_loss: z } = this.config, dp_E = new Float64Array(E);
    for (let s = 0; s < N; s++) {
      const n = layer.token_S[s];
      let mean = 0;
      for (let e = 0; e < E; e++) {
        dp_E[e] = balance * E * layer.counts_E[e] / N / N + (e === layer.expert_N[n] ? dweight_S[s] : 0);
        mean += dp_E[e] * layer.probs_NE[n * E + e];
      }
      for (let e = 0; e < E; e++) {
        dlogits[n * E + e] = layer.probs_NE[n * E + e] * (dp_E[e] - mean + z * 2 * layer.lse_N[n] / N);
      }
    }
  }

  attentionBackward(layer, g, N) {
    const { T, D, H, C } = this, { y: dh, qkv: dqkv, q: dq, k: dk, p: dp } = this.scratch, dy = dh;
    multiply(at(layer.out.gradient, 0, D), at(g, 0, 1, D), at(layer.y_ND, 0, D), D, N, D, true);
    multiply(at(dy, 0, D), at(g, 0, D), at(layer.out.value, 0, D), N, D, D);

    const scale = 1 / Math.sqrt(C);
    dk.fill(0);
    dqkv.fill(0);
    this.eachBlock(N, (at0, p0, from, rows, seen) => {
      const p = at(layer.p_BHTT, p0 + from * T, T), ds = at(dp, 0, T), block = at0 + from * D;
      const out = at(dy, block, D), head = at0 % D, dv = 3 * (at0 - head) + 2 * D + head; // values are the third part
      multiply(at(dqkv, dv, 3 * D), at(p.data, p.start, 1, T), out, seen, rows, C, true);
      multiply(ds, out, at(layer.v_ND, at0, 1, D), rows, C, seen);
      for (let i = 0; i < rows; i++) {
        let mean = 0;
        for (let s = 0; s < seen; s++) mean += dp[i * T + s] * p.data[p.start + i * T + s];
        for (let s = 0; s < seen; s++) dp[i * T + s] = p.data[p.start + i * T + s] * (dp[i * T + s] - mean) * scale;
      }
      multiply(at(dq, block, D), ds, at(layer.turnedK_ND, at0, D), rows, seen, C);
      multiply(at(dk, at0, D), at(dp, 0, 1, T), at(layer.turnedQ_ND, block, D), seen, rows, C, true);
    });

    // back through the turn and the normalisation of queries and keys; dh is free again
    const parts = [[dq, layer.q_ND, layer.qr_NH, layer.qNorm], [dk, layer.k_ND, layer.kr_NH, layer.kNorm]];
    for (const [part, [d, x, r, norm]] of parts.entries()) {
      this.rotate(d, d, -1);
      dh.fill(0);
      rmsNormBackward(dh, norm.gradient, d, r, x, norm.value, N * H, C);
      for (let n = 0; n < N; n++) {
        for (let i = 0; i < D; i++) dqkv[n * 3 * D + part * D + i] = dh[n * D + i];
      }
    }
    multiply(at(layer.qkv.gradient, 0, D), at(dqkv, 0, 1, 3 * D), at(layer.h_ND, 0, D), 3 * D, N, D, true);
    multiply(at(dh, 0, D), at(dqkv, 0, 3 * D), at(layer.qkv.value, 0, D), N, 3 * D, D);
    rmsNormBackward(g, layer.attentionNorm.gradient, dh, layer.r_N, layer.x_ND, layer.attentionNorm.value, N, D);
  }
}
