/* One forward pass of a Llama-family model over a slotted cache: one thread, float32.
 *
 * Every number is computed by the same operations in the same order whatever else is in the pass: a product sums over
 * its inner dimension from front to back, attention walks over one token's keys from the first to its own. So neither
 * the width of a batch nor the length of a block can change a result, not even in its last bit.
 *
 * Matrices come packed in panels of PANEL columns, [panel][row][PANEL], so that a panel is read from front to back.
 * Vectors are those of GCC and Clang; sizes follow what the processor has. Built and called by adasd.engine.native.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4, TILE = 6 };
#elif defined(__AVX2__)
enum { LANES = 8, VECTORS = 2, TILE = 6 };
#else
enum { LANES = 4, VECTORS = 4, TILE = 6 };
#endif
enum { PANEL = LANES * VECTORS, LARGEST_HEAD = 256 };

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES), aligned(4)));

typedef struct {
  const float *norm1, *qkv, *qkv_bias, *q_norm, *k_norm, *out, *out_bias;
  const float *norm2, *gate_up, *gate_up_bias, *down, *down_bias; /* biases and q, k norms may be NULL */
} Layer;

typedef struct {
  int64_t num_layers, width, heads, kv_heads, head_dim, inner, vocab;
  float eps, scaling;
  const float *embedding, *cos, *sin, *norm, *head; /* [V, W], [C, D / 2] twice, [W], packed [W, V] */
  const Layer *layers;
} Model;

typedef struct {
  float *const *layers; /* each [slot, position, 2, kv_heads, head_dim] */
  int64_t max_context;
} Cache;

typedef struct {
  int64_t num_tokens, num_wanted;
  const int32_t *ids, *positions, *slots; /* [num_tokens] */
  const int32_t *wanted;                  /* [num_wanted], rising */
} Pass;

typedef struct { /* when drafting stops, per session; as in adasd.messages.DraftRule */
  const int32_t *max_tokens;
  const double *entropy_ceilings, *confidence_floors;
} Rules;

typedef struct { /* [limit, sessions] */
  int32_t *tokens;
  float *entropies, *max_probs;
} Drafts;

int64_t adasd_panel(void) { return PANEL; }

/* Floats of scratch space that a pass needs. */
int64_t adasd_scratch(const Model *m, int64_t num_tokens, int64_t max_context) {
  int64_t qkv = (m->heads + 2 * m->kv_heads) * m->head_dim;
  return num_tokens * (2 * m->width + qkv + m->heads * m->head_dim + 2 * m->inner) + max_context + LANES;
}

/* --------------------------------------------------------------------------- products */

/* ``rows`` rows of y = x w (+ bias) (+ y) over one panel; ``rows`` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void tile(int rows, const float *x, int64_t inner, const float *w,
                                                       const float *bias, float *y, int64_t stride, int64_t num,
                                                       int add) {
  Vector sum[TILE][VECTORS];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < VECTORS; v++) sum[r][v] = (Vector){0};
  for (int64_t k = 0; k < inner; k++, w += PANEL) {
    Vector part[VECTORS];
    for (int v = 0; v < VECTORS; v++) part[v] = *(const Vector *)(w + v * LANES);
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < VECTORS; v++) sum[r][v] += x[r * inner + k] * part[v];
  }
  for (int r = 0; r < rows; r++) {
    float *to = y + r * stride;
    if (num == PANEL) {
      for (int v = 0; v < VECTORS; v++) {
        Vector value = bias ? sum[r][v] + *(const Vector *)(bias + v * LANES) : sum[r][v];
        *(Vector *)(to + v * LANES) = add ? *(Vector *)(to + v * LANES) + value : value;
      }
      continue;
    }
    for (int64_t i = 0; i < num; i++) {
      float value = sum[r][i / LANES][i % LANES] + (bias ? bias[i] : 0);
      to[i] = add ? to[i] + value : value;
    }
  }
}

/* y [rows, num] = x [rows, inner] w + bias, added to what y holds if ``add``. */
static void product(const float *x, int64_t rows, int64_t inner, const float *w, const float *bias, float *y,
                    int64_t num, int add) {
  for (int64_t first = 0; first < num; first += PANEL, w += inner * PANEL) {
    int64_t here = num - first < PANEL ? num - first : PANEL;
    const float *b = bias ? bias + first : 0;
    int64_t r = 0;
    for (; r + TILE <= rows; r += TILE) tile(TILE, x + r * inner, inner, w, b, y + r * num + first, num, here, add);
    const float *rest = x + r * inner;
    float *to = y + r * num + first;
    switch (rows - r) {
    case 5: tile(5, rest, inner, w, b, to, num, here, add); break;
    case 4: tile(4, rest, inner, w, b, to, num, here, add); break;
    case 3: tile(3, rest, inner, w, b, to, num, here, add); break;
    case 2: tile(2, rest, inner, w, b, to, num, here, add); break;
    case 1: tile(1, rest, inner, w, b, to, num, here, add); break;
    }
  }
}

/* --------------------------------------------------------------------------- elementwise */

static inline Vector choose(Whole where, Vector yes, Vector no) {
  return (Vector)((where & (Whole)yes) | (~where & (Whole)no));
}

/* e^x to about 1e-7, NaN stays NaN: x = n ln 2 + r, a polynomial in r, n into the exponent's bits. */
static inline Vector exponential(Vector x) {
  const Vector low = (Vector){0} - 87.0f, high = (Vector){0} + 88.0f;
  x = choose(x < low, low, x);
  x = choose(x > high, high, x);
  const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
  Vector shifted = x * 1.44269504f + magic, n = shifted - magic;
  Vector r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Whole bits = ((Whole)shifted - 0x4B400000 + 127) << 23;
  return p * (Vector)bits;
}

/* Root mean square norm of rows; ``to`` may be ``from``. */
static void norm(const float *from, const float *weight, int64_t rows, int64_t width, float eps, float *to) {
  for (int64_t r = 0; r < rows; r++, from += width, to += width) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += from[i] * from[i];
    float scale = 1.0f / sqrtf(sum / (float)width + eps);
    for (int64_t i = 0; i < width; i++) to[i] = from[i] * scale * weight[i];
  }
}

/* silu(gate) * up, rows [gate, up] of 2 * inner, into rows of inner in the same place. */
static void activate(float *gate_up, int64_t rows, int64_t inner) {
  float *to = gate_up;
  for (int64_t r = 0; r < rows; r++, to += inner) {
    const float *gate = gate_up + 2 * r * inner, *up = gate + inner;
    int64_t i = 0;
    for (; i + LANES <= inner; i += LANES) {
      Vector g = *(const Vector *)(gate + i), u = *(const Vector *)(up + i);
      *(Vector *)(to + i) = g / (exponential(-g) + 1.0f) * u;
    }
    for (; i < inner; i++) {
      Vector g = (Vector){0} + gate[i];
      to[i] = (g / (exponential(-g) + 1.0f))[0] * up[i];
    }
  }
}

/* Rotary embedding of heads [num, dim] of one token, halves turning against each other. */
static void rotate(float *heads, int64_t num, int64_t dim, const float *cosine, const float *sine) {
  int64_t half = dim / 2;
  for (int64_t h = 0; h < num; h++, heads += dim)
    for (int64_t i = 0; i < half; i++) {
      float a = heads[i], b = heads[i + half];
      heads[i] = a * cosine[i] - b * sine[i];
      heads[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* --------------------------------------------------------------------------- attention */

/* One head of one token over ``num`` keys that lie ``stride`` apart, values ``behind`` them; ``dim`` may be constant. */
static inline __attribute__((always_inline)) void attend(int64_t dim, const float *query, float scaling,
                                                         const float *keys, int64_t behind, int64_t stride,
                                                         int64_t num, float *scores, float *out) {
  float scaled[LARGEST_HEAD], sums[LARGEST_HEAD], largest = -INFINITY;
  for (int64_t i = 0; i < dim; i++) scaled[i] = query[i] * scaling, sums[i] = 0;
  for (int64_t l = 0; l < num; l++) {
    const float *key = keys + l * stride;
    float score = 0;
#pragma omp simd reduction(+ : score)
    for (int64_t i = 0; i < dim; i++) score += scaled[i] * key[i];
    scores[l] = score;
    largest = score > largest ? score : largest;
  }
  float total = 0;
  for (int64_t l = 0; l < num; l += LANES) {
    Vector weights = exponential(*(Vector *)(scores + l) - largest);
    *(Vector *)(scores + l) = weights;
    for (int64_t i = 0; i < LANES && l + i < num; i++) total += weights[i];
  }
  for (int64_t l = 0; l < num; l++) {
    const float *value = keys + behind + l * stride;
    for (int64_t i = 0; i < dim; i++) sums[i] += scores[l] * value[i];
  }
  for (int64_t i = 0; i < dim; i++) out[i] = sums[i] / total;
}

/* All heads of one token: query [heads, dim] over its slot's keys and values up to its own. */
static void attend_token(const Model *m, const float *query, const float *slot, int64_t num, float *scores, float *out) {
  int64_t dim = m->head_dim, shared = m->heads / m->kv_heads, behind = m->kv_heads * dim;
  for (int64_t h = 0; h < m->heads; h++, query += dim, out += dim) {
    const float *keys = slot + h / shared * dim;
    switch (dim) {
    case 32: attend(32, query, m->scaling, keys, behind, 2 * behind, num, scores, out); break;
    case 64: attend(64, query, m->scaling, keys, behind, 2 * behind, num, scores, out); break;
    case 128: attend(128, query, m->scaling, keys, behind, 2 * behind, num, scores, out); break;
    default: attend(dim, query, m->scaling, keys, behind, 2 * behind, num, scores, out);
    }
  }
}

/* --------------------------------------------------------------------------- the pass */

static void store_and_attend(const Model *m, const Layer *layer, float *kv, int64_t max_context, const Pass *pass,
                             float *qkv, float *scores, float *attended) {
  int64_t dim = m->head_dim, queries = m->heads * dim, per_token = 2 * m->kv_heads * dim, row = queries + per_token;
  for (int64_t t = 0; t < pass->num_tokens; t++) {
    float *q = qkv + t * row, *k = q + queries;
    int64_t turn = pass->positions[t] * (dim / 2);
    if (layer->q_norm) {
      for (int64_t h = 0; h < m->heads; h++) norm(q + h * dim, layer->q_norm, 1, dim, m->eps, q + h * dim);
      for (int64_t h = 0; h < m->kv_heads; h++) norm(k + h * dim, layer->k_norm, 1, dim, m->eps, k + h * dim);
    }
    rotate(q, m->heads + m->kv_heads, dim, m->cos + turn, m->sin + turn);
    memcpy(kv + (pass->slots[t] * max_context + pass->positions[t]) * per_token, k, per_token * sizeof(float));
  }
  for (int64_t t = 0; t < pass->num_tokens; t++)
    attend_token(m, qkv + t * row, kv + pass->slots[t] * max_context * per_token, pass->positions[t] + 1, scores,
                 attended + t * queries);
}

/* Writes the pass into the cache and the wanted tokens' logits [num_wanted, V]. */
void adasd_forward(const Model *m, const Cache *cache, const Pass *pass, float *scratch, float *logits) {
  int64_t num = pass->num_tokens, width = m->width, queries = m->heads * m->head_dim;
  int64_t qkv_len = queries + 2 * m->kv_heads * m->head_dim;
  float *x = scratch, *normed = x + num * width, *qkv = normed + num * width;
  float *attended = qkv + num * qkv_len, *gate_up = attended + num * queries, *scores = gate_up + 2 * num * m->inner;
  for (int64_t t = 0; t < num; t++)
    memcpy(x + t * width, m->embedding + pass->ids[t] * width, width * sizeof(float));
  for (int64_t i = 0; i < m->num_layers; i++) {
    const Layer *layer = m->layers + i;
    norm(x, layer->norm1, num, width, m->eps, normed);
    product(normed, num, width, layer->qkv, layer->qkv_bias, qkv, qkv_len, 0);
    store_and_attend(m, layer, cache->layers[i], cache->max_context, pass, qkv, scores, attended);
    product(attended, num, queries, layer->out, layer->out_bias, x, width, 1);
    norm(x, layer->norm2, num, width, m->eps, normed);
    product(normed, num, width, layer->gate_up, layer->gate_up_bias, gate_up, 2 * m->inner, 0);
    activate(gate_up, num, m->inner);
    product(gate_up, num, m->inner, layer->down, layer->down_bias, x, width, 1);
  }
  for (int64_t i = 0; i < pass->num_wanted; i++)
    norm(x + pass->wanted[i] * width, m->norm, 1, width, m->eps, normed + i * width);
  product(normed, pass->num_wanted, width, m->head, 0, logits, m->vocab, 0);
}

/* --------------------------------------------------------------------------- drafting */

/* The first largest of ``num`` logits; entropy (nats) and largest probability of their softmax, NaN if any is broken. */
static void signals(const float *logits, int64_t num, int32_t *token, float *entropy, float *max_prob) {
  float largest = logits[0], total = 0, weighted = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < num; i++) largest = logits[i] > largest ? logits[i] : largest;
  *token = 0;
  while (*token < num - 1 && !(logits[*token] == largest)) ++*token;
  Vector totals = {0}, weighteds = {0};
  int64_t i = 0;
  for (; i + LANES <= num; i += LANES) {
    Vector shifted = *(const Vector *)(logits + i) - largest, weights = exponential(shifted);
    totals += weights;
    weighteds += weights * shifted;
  }
  for (; i < num; i++) {
    Vector shifted = (Vector){0} + (logits[i] - largest), weights = exponential(shifted);
    total += weights[0];
    weighted += weights[0] * shifted[0];
  }
  for (int64_t lane = 0; lane < LANES; lane++) total += totals[lane], weighted += weighteds[lane];
  *entropy = fmaxf(0.0f, logf(total) - weighted / total) + 0 * total; /* fmaxf drops NaN, the sum brings it back */
  *max_prob = 1.0f / total;
}

/* Greedy drafting for the sessions whose wanted tokens are in ``pass``, one token per pass, until the first of them is
 * to stop (or its logits are broken), at most ``limit`` passes, of which the number is returned. ``next`` holds 4 * sessions. */
int64_t adasd_draft(const Model *m, const Cache *cache, const Pass *pass, const Rules *rules, int64_t limit,
                    int64_t vocab, float *scratch, float *logits, int32_t *next, const Drafts *drafts) {
  int64_t num = pass->num_wanted;
  int32_t *ids = next, *positions = ids + num, *slots = positions + num, *wanted = slots + num;
  Pass following = {num, num, ids, positions, slots, wanted};
  for (int64_t s = 0; s < num; s++) {
    wanted[s] = s;
    positions[s] = pass->positions[pass->wanted[s]];
    slots[s] = pass->slots[pass->wanted[s]];
  }
  for (int64_t done = 0;; pass = &following) {
    int stops = 0;
    adasd_forward(m, cache, pass, scratch, logits);
    for (int64_t s = 0; s < num; s++) {
      int64_t at = done * num + s;
      float *entropy = drafts->entropies + at, *max_prob = drafts->max_probs + at;
      signals(logits + s * m->vocab, vocab, drafts->tokens + at, entropy, max_prob);
      stops |= done + 1 >= rules->max_tokens[s] || (double)*entropy > rules->entropy_ceilings[s] ||
               (double)*max_prob < rules->confidence_floors[s] || !isfinite(*entropy);
      ids[s] = drafts->tokens[at];
      positions[s]++;
    }
    if (++done >= limit || stops) return done;
  }
}
