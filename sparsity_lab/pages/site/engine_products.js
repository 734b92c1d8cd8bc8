/* Matrix products, normalisation and softmax of the page's engine. Numbers are stored as float32, as torch does, and
 * summed as float64, as JavaScript does. */

const EPS = 1e-6; // of RMSNorm

/** A matrix in an array: where it starts, and how far apart its rows and its columns are. */
const at = (data, start, row, column = 1) => ({ data, start, row, column });

/** out (n, m) = a (n, depth) · b (depth, m), or is increased by it. Eight sums at a time stay in registers. */
function multiply(out, a, b, n, depth, m, add = false) {
  const x = a.data, y = b.data, ar = a.row, ac = a.column, br = b.row, bc = b.column;
  const wholeN = n & ~1, wholeM = m & ~3;
  for (let i = 0; i < wholeN; i += 2) {
    for (let j = 0; j < wholeM; j += 4) {
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
      let p = a.start + i * ar, q = b.start + j * bc;
      for (let k = 0; k < depth; k++) {
        const u = x[p], v = x[p + ar], y0 = y[q], y1 = y[q + bc], y2 = y[q + 2 * bc], y3 = y[q + 3 * bc];
        s0 += u * y0; s1 += u * y1; s2 += u * y2; s3 += u * y3;
        t0 += v * y0; t1 += v * y1; t2 += v * y2; t3 += v * y3;
        p += ac;
        q += br;
      }
      put(out, i, j, add, s0, s1, s2, s3);
      put(out, i + 1, j, add, t0, t1, t2, t3);
    }
  }
  for (let i = 0; i < n; i++) { // what is left at the right and at the bottom
    for (let j = i < wholeN ? wholeM : 0; j < m; j++) {
      let sum = 0;
      for (let k = 0; k < depth; k++) sum += x[a.start + i * ar + k * ac] * y[b.start + k * br + j * bc];
      const o = out.start + i * out.row + j;
      out.data[o] = add ? out.data[o] + sum : sum;
    }
  }
}

function put(out, i, j, add, s0, s1, s2, s3) {
  const data = out.data, o = out.start + i * out.row + j;
  if (add) {
    data[o] += s0; data[o + 1] += s1; data[o + 2] += s2; data[o + 3] += s3;
  } else {
    data[o] = s0; data[o + 1] = s1; data[o + 2] = s2; data[o + 3] = s3;
  }
}

// ---- Normalisation: of rows (of the model) or of heads (of queries and keys)

/** out = x / sqrt(mean(x²) + ε) · w for each group of `width` numbers; keeps the factor of each in r. */
function rmsNorm(out, r, x, w, groups, width) {
  for (let g = 0; g < groups; g++) {
    const start = g * width;
    let sum = 0;
    for (let i = start; i < start + width; i++) sum += x[i] * x[i];
    r[g] = 1 / Math.sqrt(sum / width + EPS);
    for (let i = 0; i < width; i++) out[start + i] = x[start + i] * r[g] * w[i];
  }
}

/** Adds to dx and dw what follows from the gradient g of the result. */
function rmsNormBackward(dx, dw, g, r, x, w, groups, width) {
  for (let n = 0; n < groups; n++) {
    const start = n * width;
    let mean = 0;
    for (let i = 0; i < width; i++) {
      const along = g[start + i] * x[start + i] * r[n];
      dw[i] += along;
      mean += along * w[i] / width;
    }
    for (let i = 0; i < width; i++) {
      dx[start + i] += r[n] * (g[start + i] * w[i] - x[start + i] * r[n] * mean);
    }
  }
}

/** Makes probabilities of the numbers x[start …] in place; returns the logarithm of the sum of their exponentials. */
function softmax(x, start, count) {
  let most = -Infinity, sum = 0;
  for (let i = start; i < start + count; i++) if (x[i] > most) most = x[i];
  for (let i = start; i < start + count; i++) sum += x[i] = Math.exp(x[i] - most);
  for (let i = start; i < start + count; i++) x[i] /= sum;
  return most + Math.log(sum);
}
