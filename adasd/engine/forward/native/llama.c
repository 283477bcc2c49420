/* One forward pass of a Llama-family model over a slotted cache, in float32, or with products of bytes.
 *
 * Every number is computed by the same operations in the same order, independent of the rest of the batch and of the
 * number of threads: a product sums over its inner dimension from front to back, and attention goes over a token's keys
 * from the first to its own. So neither batch size nor block length changes a result, not even in its last bit.
 *
 * Uses the vector extensions of GCC and Clang; vector sizes depend on the processor. See adasd.engine.forward.native.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "attention.h"
#include "products.h"
#include "team.h"
#include "vectors.h"

typedef struct {
  const float *norm1, *qkv_bias, *q_norm, *k_norm, *out_bias; /* biases and q, k norms may be NULL */
  const float *norm2, *gate_up_bias, *down_bias;
  Matrix qkv, out, gate_up, down;
} Layer;

typedef struct {
  int64_t num_layers, width, heads, kv_heads, head_dim, inner, vocab;
  float eps, scaling;
  const float *cos, *sin, *norm; /* [C, D / 2] twice, [W] */
  Matrix embedding, head;        /* [V, W], by rows instead of panels; [W, V] */
  const Layer *layers;
} Model;

typedef struct {
  float *const *layers; /* each [slot, position, 2, kv_heads, head_dim] */
  int64_t max_context;
} Cache;

typedef struct {
  int64_t num_tokens, num_wanted;
  int64_t alone;                          /* whether the caller computes it without the other threads */
  const int32_t *ids, *positions, *slots; /* [num_tokens] */
  const int32_t *wanted;                  /* [num_wanted], rising */
} Pass;

typedef struct { /* stop rules, per session; as in adasd.rounds.StopRule */
  const int32_t *max_tokens;
  const double *entropy_ceilings, *confidence_floors;
  int64_t num_edges;
  const double *edges;                  /* [num_edges], rising */
  const double *chances, *next_chances; /* [sessions, num_edges + 1] */
  const double *prices;
  double *survivals; /* chance that the whole block so far is accepted; 1 at the start */
} Rules;

typedef struct { /* [limit, sessions] */
  int32_t *tokens, *others; /* others: runner-up tokens; NULL: not wanted */
  float *entropies, *max_probs;
} Drafts;

int64_t adasd_panel(void) { return PANEL; }

/* Groups of the longest row that a matrix is multiplied with. */
static int64_t most_groups(const Model *m) {
  int64_t queries = m->heads * m->head_dim, longest = m->inner > m->width ? m->inner : m->width;
  return groups_of(longest > queries ? longest : queries);
}

/* Floats of scratch space that a pass needs. */
int64_t adasd_scratch(const Model *m, int64_t num_tokens, int64_t max_context, int64_t num_threads) {
  int64_t qkv = (m->heads + 2 * m->kv_heads) * m->head_dim, rounded = most_groups(m) * (GROUP / 4 + 2);
  return num_tokens * (2 * m->width + qkv + m->heads * m->head_dim + 3 * m->inner + rounded + 1) + 1 +
         num_threads * SHARE * scores_room(max_context);
}

/* --------------------------------------------------------------------------- elementwise */

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

/* silu(gate) * up, from a row [gate, up] of 2 * inner to one of inner. */
static void activate(const float *gate, int64_t inner, float *to) {
  const float *up = gate + inner;
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

/* Rotary embedding of heads [num, dim] of one token; number i rotates with number i + dim / 2. */
static void rotate(float *heads, int64_t num, int64_t dim, const float *cosine, const float *sine) {
  int64_t half = dim / 2;
  for (int64_t h = 0; h < num; h++, heads += dim)
    for (int64_t i = 0; i < half; i++) {
      float a = heads[i], b = heads[i + half];
      heads[i] = a * cosine[i] - b * sine[i];
      heads[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* --------------------------------------------------------------------------- the pass */

typedef struct {
  const Model *m;
  const Cache *cache;
  const Pass *pass;
  int64_t num_runs;
  const int32_t *runs; /* [num_runs + 1]: where each run of tokens begins, and the end */
  float *x, *normed, *qkv, *attended, *gate_up, *active, *scores, *logits; /* scores of each member */
  Rounded rounded; /* rows of what the next matrix is multiplied with */
} Forward;

/* Splits a pass into runs of up to ROWS consecutive tokens of one slot; returns their number. */
static int64_t split(const Pass *pass, int32_t *runs) {
  int64_t num = 0;
  for (int64_t t = 0, rows; t < pass->num_tokens; t += rows) {
    const int32_t *slot = pass->slots + t, *position = pass->positions + t;
    int64_t most = pass->num_tokens - t < ROWS ? pass->num_tokens - t : ROWS;
    for (rows = 1; rows < most && slot[rows] == slot[0] && position[rows] == position[0] + rows;) rows++;
    runs[num++] = t;
  }
  runs[num] = pass->num_tokens;
  return num;
}

/* Rotates a token's queries and keys, and writes its keys and values to the cache. */
static void store(const Forward *f, const Layer *layer, float *kv, int64_t t, float *q) {
  const Model *m = f->m;
  int64_t dim = m->head_dim, per_token = 2 * m->kv_heads * dim, turn = f->pass->positions[t] * (dim / 2);
  float *k = q + m->heads * dim;
  if (layer->q_norm) {
    norm(q, layer->q_norm, m->heads, dim, m->eps, q);
    norm(k, layer->k_norm, m->kv_heads, dim, m->eps, k);
  }
  rotate(q, m->heads + m->kv_heads, dim, m->cos + turn, m->sin + turn);
  memcpy(kv + (f->pass->slots[t] * f->cache->max_context + f->pass->positions[t]) * per_token, k,
         per_token * sizeof(float));
}

/* Attention of one head of one run of tokens. */
static void attend_run(const Forward *f, const float *kv, int64_t run, int64_t head, float *scores) {
  const Model *m = f->m;
  int64_t dim = m->head_dim, queries = m->heads * dim, behind = m->kv_heads * dim, t = f->runs[run];
  int64_t per_query = queries + 2 * behind, first = f->pass->slots[t] * f->cache->max_context * 2 * behind;
  const float *keys = kv + first + head / (m->heads / m->kv_heads) * dim;
  attend_rows(dim, f->qkv + t * per_query + head * dim, per_query, f->runs[run + 1] - t, m->scaling, keys, behind,
              2 * behind, f->pass->positions[t] + 1, scores, scores_room(f->cache->max_context),
              f->attended + t * queries + head * dim, queries);
}

/* Row ``to`` of what ``next`` is multiplied with, from row ``from`` of the hidden states. */
static void normalise(const Forward *f, int64_t from, int64_t to, const float *weight, const Matrix *next) {
  int64_t width = f->m->width;
  norm(f->x + from * width, weight, 1, width, f->m->eps, f->normed + to * width);
  prepare(&f->rounded, to, next, f->normed + to * width, width);
}

/* What one member does of a pass. */
static void share_of_forward(Team *team, int64_t member, const void *what) {
  const Forward *f = what;
  const Model *m = f->m;
  const Pass *pass = f->pass;
  int64_t num = pass->num_tokens, width = m->width, inner = m->inner, queries = m->heads * m->head_dim;
  int64_t qkv_len = queries + 2 * m->kv_heads * m->head_dim;
  float *scores = f->scores + member * SHARE * scores_room(f->cache->max_context);
  const Rounded *r = &f->rounded;
  SHARED(team, t, num)
    look_up(&m->embedding, pass->ids[t], width, f->x + t * width);
  meet(team);
  for (int64_t i = 0; i < m->num_layers; i++) {
    const Layer *layer = m->layers + i;
    float *kv = f->cache->layers[i];
    SHARED(team, t, num) normalise(f, t, t, layer->norm1, &layer->qkv);
    meet(team);
    product(team, f->normed, r, num, width, &layer->qkv, layer->qkv_bias, f->qkv, qkv_len, 0);
    SHARED(team, t, num) store(f, layer, kv, t, f->qkv + t * qkv_len);
    meet(team);
    SHARED(team, part, f->num_runs * m->heads) attend_run(f, kv, part / m->heads, part % m->heads, scores);
    meet(team);
    if (layer->out.kind == ROUNDED) {
      SHARED(team, t, num) prepare(r, t, &layer->out, f->attended + t * queries, queries);
      meet(team);
    }
    product(team, f->attended, r, num, queries, &layer->out, layer->out_bias, f->x, width, 1);
    SHARED(team, t, num) normalise(f, t, t, layer->norm2, &layer->gate_up);
    meet(team);
    product(team, f->normed, r, num, width, &layer->gate_up, layer->gate_up_bias, f->gate_up, 2 * inner, 0);
    SHARED(team, t, num) {
      activate(f->gate_up + 2 * t * inner, inner, f->active + t * inner);
      prepare(r, t, &layer->down, f->active + t * inner, inner);
    }
    meet(team);
    product(team, f->active, r, num, inner, &layer->down, layer->down_bias, f->x, width, 1);
  }
  SHARED(team, i, pass->num_wanted) normalise(f, pass->wanted[i], i, m->norm, &m->head);
  meet(team);
  product(team, f->normed, r, pass->num_wanted, width, &m->head, 0, f->logits, m->vocab, 0);
}

/* Writes the pass to the cache, and the logits of the wanted tokens [num_wanted, V]. */
void adasd_forward(Team *team, const Model *m, const Cache *cache, const Pass *pass, float *scratch, float *logits) {
  int64_t num = pass->num_tokens, queries = m->heads * m->head_dim, most = num * most_groups(m);
  Forward f = {.m = m, .cache = cache, .pass = pass, .logits = logits};
  f.x = scratch;
  f.normed = f.x + num * m->width;
  f.qkv = f.normed + num * m->width;
  f.attended = f.qkv + num * (queries + 2 * m->kv_heads * m->head_dim);
  f.gate_up = f.attended + num * queries;
  f.active = f.gate_up + 2 * num * m->inner;
  f.rounded = (Rounded){.steps = f.active + num * m->inner};
  f.rounded.offsets = (int32_t *)(f.rounded.steps + most);
  f.rounded.bytes = (int8_t *)(f.rounded.offsets + most);
  f.scores = f.rounded.steps + most * (GROUP / 4 + 2);
  int32_t *runs = (int32_t *)(f.scores + (team->num_started + 1) * SHARE * scores_room(cache->max_context));
  f.num_runs = split(pass, runs);
  f.runs = runs;
  together(team, (int)pass->alone, share_of_forward, &f);
}

/* --------------------------------------------------------------------------- drafting */

static float largest_of(const float *logits, int64_t num) {
  float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < num; i++) largest = logits[i] > largest ? logits[i] : largest;
  return largest;
}

/* The first largest of ``num`` logits other than that of ``token``; ``token`` if all others are -inf. */
static int32_t second_choice(const float *logits, int64_t num, int32_t token) {
  float before = largest_of(logits, token), behind = largest_of(logits + token + 1, num - token - 1);
  float second = before > behind ? before : behind;
  if (second == -INFINITY) return token;
  for (int32_t i = 0; i < num; i++)
    if (i != token && logits[i] == second) return i;
  return token;
}

/* Index of the first largest of ``num`` logits; entropy (nats) and largest probability of their softmax, NaN if any
 * logit is broken. */
static void signals(const float *logits, int64_t num, int32_t *token, float *entropy, float *max_prob) {
  float largest = largest_of(logits, num), total = 0, weighted = 0;
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

/* Whether the token after one of this entropy is not worth its price; see adasd.stop_rule.next_chance. */
static int too_dear(const Rules *rules, int64_t session, double entropy) {
  int64_t bin = 0;
  while (bin < rules->num_edges && entropy >= rules->edges[bin]) bin++;
  int64_t at = session * (rules->num_edges + 1) + bin;
  rules->survivals[session] *= rules->chances[at];
  return rules->survivals[session] * rules->next_chances[at] <= rules->prices[session];
}

/* Greedy drafting for the sessions whose wanted tokens are in ``pass``, one token per pass, until the first session
 * must stop (or its logits are broken), or after ``limit`` passes. Returns the number of passes. ``next`` has room for
 * 4 * sessions. The logits of each pass come ``stride`` floats after those of the one before; 0: in their place. */
int64_t adasd_draft(Team *team, const Model *m, const Cache *cache, const Pass *pass, const Rules *rules, int64_t limit,
                    int64_t vocab, int64_t stride, float *scratch, float *logits, int32_t *next, const Drafts *drafts) {
  int64_t num = pass->num_wanted;
  int32_t *ids = next, *positions = ids + num, *slots = positions + num, *wanted = slots + num;
  Pass following = {num, num, pass->alone, ids, positions, slots, wanted};
  for (int64_t s = 0; s < num; s++) {
    wanted[s] = s;
    positions[s] = pass->positions[pass->wanted[s]];
    slots[s] = pass->slots[pass->wanted[s]];
  }
  for (int64_t done = 0;; pass = &following, logits += stride) {
    int stops = 0;
    adasd_forward(team, m, cache, pass, scratch, logits);
    for (int64_t s = 0; s < num; s++) {
      int64_t at = done * num + s;
      float *entropy = drafts->entropies + at, *max_prob = drafts->max_probs + at;
      signals(logits + s * m->vocab, vocab, drafts->tokens + at, entropy, max_prob);
      if (drafts->others) drafts->others[at] = second_choice(logits + s * m->vocab, vocab, drafts->tokens[at]);
      stops |= done + 1 >= rules->max_tokens[s] || (double)*entropy > rules->entropy_ceilings[s] ||
               (double)*max_prob < rules->confidence_floors[s] || !isfinite(*entropy);
      stops |= too_dear(rules, s, *entropy);
      ids[s] = drafts->tokens[at];
      positions[s]++;
    }
    if (++done >= limit || stops) return done;
  }
}
