/* One forward pass of a Llama-family model over a slotted cache, in float32, over weights of four, two or one bytes.
 *
 * Every number is computed by the same operations in the same order, independent of the rest of the batch and of the
 * number of threads: a product sums over its inner dimension from front to back, and attention goes over a token's keys
 * from the first to its own. So neither batch size nor block length changes a result, not even in its last bit.
 *
 * Matrices are packed in panels of PANEL columns, [panel][row][PANEL], so that a panel is read from front to back.
 * Weights that sixteen bits hold exactly take two bytes, rounded ones a byte with a scale per column. They are widened
 * in registers, so a pass reads half or a quarter of the memory, and sixteen bits give the numbers of full weights.
 * Uses the vector extensions of GCC and Clang; vector sizes depend on the processor. See adasd.engine.forward.native.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include "team.h"

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4, TILE = 6 };
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif defined(__AVX2__)
enum { LANES = 8, VECTORS = 2, TILE = 6 };
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
enum { LANES = 4, VECTORS = 4, TILE = 6 };
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#endif
enum { PANEL = LANES * VECTORS, LARGEST_HEAD = 256, CHAINS = 4, ROWS = 8, CHUNK = 8 * TILE };

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1)));
typedef uint16_t Words __attribute__((vector_size(2 * LANES), aligned(2)));

typedef enum { FULL, BYTES, HALF, BRAIN } Kind; /* float, int8_t, IEEE's sixteen bits, the upper half of a float */
static const int64_t WIDTHS[] = {4, 1, 2, 2};   /* bytes of a weight of each kind */

typedef struct {
  const void *panels;
  const float *scales; /* of BYTES: [columns], padded to whole panels */
  int64_t kind;
} Matrix;

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

/* Floats for the scores of one token, with room for a last whole vector. */
static int64_t scores_room(int64_t max_context) { return max_context + LANES; }

/* Floats of scratch space that a pass needs. */
int64_t adasd_scratch(const Model *m, int64_t num_tokens, int64_t max_context, int64_t num_threads) {
  int64_t qkv = (m->heads + 2 * m->kv_heads) * m->head_dim;
  return num_tokens * (2 * m->width + qkv + m->heads * m->head_dim + 3 * m->inner + 1) + 1 +
         num_threads * ROWS * scores_room(max_context);
}

/* --------------------------------------------------------------------------- products */

/* LANES bytes as floats. Compilers do not find these instructions in a conversion of vectors. */
static inline __attribute__((always_inline)) Vector of_bytes(const int8_t *bytes) {
#if defined(__AVX512F__)
  return (Vector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)bytes)));
#elif defined(__AVX2__)
  return (Vector)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)bytes)));
#else
  return __builtin_convertvector(*(const Bytes *)bytes, Vector);
#endif
}

/* LANES words, each in the lower half of a whole number. */
static inline __attribute__((always_inline)) Whole of_words(const uint16_t *words) {
#if defined(__AVX512F__)
  return (Whole)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)words));
#elif defined(__AVX2__)
  return (Whole)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)words));
#else
  return __builtin_convertvector(*(const Words *)words, Whole);
#endif
}

/* LANES finite numbers of IEEE's sixteen bits. Without an instruction for it: their exponent and fraction moved to
 * where a float has them make the number times 2^-112. */
static inline __attribute__((always_inline)) Vector of_halves(const uint16_t *words) {
#if defined(__AVX512F__)
  return (Vector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)words));
#elif defined(__AVX2__) && defined(__F16C__)
  return (Vector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)words));
#else
  Whole bits = of_words(words);
  Vector size = (Vector)((bits & 0x7fff) << 13) * 0x1p112f;
  return (Vector)((Whole)size | (bits & 0x8000) << 16);
#endif
}

/* LANES weights from number ``at`` on, without their scales. */
static inline __attribute__((always_inline)) Vector widened(Kind kind, const void *weights, int64_t at) {
  switch (kind) {
  case BYTES: return of_bytes((const int8_t *)weights + at);
  case HALF: return of_halves((const uint16_t *)weights + at);
  case BRAIN: return (Vector)(of_words((const uint16_t *)weights + at) << 16);
  default: return *(const Vector *)((const float *)weights + at);
  }
}

/* One row of an embedding of ``width`` numbers. */
static void look_up(const Matrix *embedding, int64_t row, int64_t width, float *to) {
  const char *from = (const char *)embedding->panels + row * width * WIDTHS[embedding->kind];
  if (embedding->kind == FULL) {
    memcpy(to, from, width * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < width; i += LANES) {
    uint16_t words[LANES] = {0};
    int64_t num = width - i < LANES ? width - i : LANES;
    memcpy(words, from + 2 * i, 2 * num);
    Vector numbers = embedding->kind == HALF ? widened(HALF, words, 0) : widened(BRAIN, words, 0);
    memcpy(to + i, &numbers, num * sizeof(float));
  }
}

/* ``rows`` rows of y = x w (+ bias) (+ y) over one panel; ``rows`` and ``kind`` are constants at every call, as this is
 * inlined. */
static inline __attribute__((always_inline)) void tile(int rows, Kind kind, const float *x, int64_t inner,
                                                       const void *panel, const float *scales, const float *bias,
                                                       float *y, int64_t stride, int64_t num, int add) {
  Vector sum[TILE][VECTORS];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < VECTORS; v++) sum[r][v] = (Vector){0};
  for (int64_t k = 0; k < inner; k++) {
    Vector part[VECTORS];
    for (int v = 0; v < VECTORS; v++) part[v] = widened(kind, panel, k * PANEL + v * LANES);
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < VECTORS; v++) sum[r][v] += x[r * inner + k] * part[v];
  }
  for (int r = 0; r < rows; r++) {
    float *to = y + r * stride;
    for (int v = 0; scales && v < VECTORS; v++) sum[r][v] *= *(const Vector *)(scales + v * LANES);
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

/* All rows of one panel; ``kind`` is a constant at every call. */
static inline __attribute__((always_inline)) void panel_rows(Kind kind, const float *x, int64_t rows, int64_t inner,
                                                             const void *w, const float *s, const float *b, float *y,
                                                             int64_t num, int64_t here, int add) {
  int64_t r = 0;
  for (; r + TILE <= rows; r += TILE)
    tile(TILE, kind, x + r * inner, inner, w, s, b, y + r * num, num, here, add);
  const float *rest = x + r * inner;
  float *to = y + r * num;
  switch (rows - r) {
  case 5: tile(5, kind, rest, inner, w, s, b, to, num, here, add); break;
  case 4: tile(4, kind, rest, inner, w, s, b, to, num, here, add); break;
  case 3: tile(3, kind, rest, inner, w, s, b, to, num, here, add); break;
  case 2: tile(2, kind, rest, inner, w, s, b, to, num, here, add); break;
  case 1: tile(1, kind, rest, inner, w, s, b, to, num, here, add); break;
  }
}

/* y [rows, num] = x [rows, inner] w + bias, added to what y holds if ``add``; shared by panels and chunks of rows. */
static void product(Team *team, const float *x, int64_t rows, int64_t inner, const Matrix *w, const float *bias,
                    float *y, int64_t num, int add) {
  int64_t chunks = (rows + CHUNK - 1) / CHUNK, panels = (num + PANEL - 1) / PANEL;
  SHARED(team, part, panels * chunks) {
    int64_t first = part / chunks * PANEL, row = part % chunks * CHUNK;
    int64_t here = num - first < PANEL ? num - first : PANEL, some = rows - row < CHUNK ? rows - row : CHUNK;
    const float *b = bias ? bias + first : 0, *from = x + row * inner, *s = w->scales ? w->scales + first : 0;
    float *to = y + row * num + first;
    const char *panel = w->panels;
    panel += first * inner * WIDTHS[w->kind];
    switch (w->kind) {
    case BYTES: panel_rows(BYTES, from, some, inner, panel, s, b, to, num, here, add); break;
    case HALF: panel_rows(HALF, from, some, inner, panel, s, b, to, num, here, add); break;
    case BRAIN: panel_rows(BRAIN, from, some, inner, panel, s, b, to, num, here, add); break;
    default: panel_rows(FULL, from, some, inner, panel, s, b, to, num, here, add);
    }
  }
  meet(team);
}

/* --------------------------------------------------------------------------- elementwise */

static inline Vector choose(Whole where, Vector yes, Vector no) {
  return (Vector)((where & (Whole)yes) | (~where & (Whole)no));
}

/* e^x to about 1e-7; NaN stays NaN. x = n ln 2 + r: a polynomial in r, and n goes into the exponent bits. */
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

/* --------------------------------------------------------------------------- attention */

/* Turns scores into weights e^(score - largest) and returns their sum. Fills up to a multiple of LANES with 0. */
static float weigh(float *scores, int64_t num) {
  float largest = scores[0], total = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t l = 0; l < num; l++) largest = scores[l] > largest ? scores[l] : largest;
  Vector totals = {0};
  for (int64_t l = 0; l < num; l += LANES) {
    Vector weights = exponential(*(Vector *)(scores + l) - largest);
    for (int64_t i = num - l; i < LANES; i++) weights[i] = 0;
    *(Vector *)(scores + l) = weights;
    totals += weights;
  }
  for (int lane = 0; lane < LANES; lane++) total += totals[lane];
  return total;
}

/* One head of one token over ``num`` keys ``stride`` apart; each value lies ``behind`` floats after its key. For any
 * ``dim``. */
static void attend_any(int64_t dim, const float *query, float scaling, const float *keys, int64_t behind,
                       int64_t stride, int64_t num, float *scores, float *out) {
  float sums[LARGEST_HEAD] = {0};
  for (int64_t l = 0; l < num; l++) {
    float score = 0;
    for (int64_t i = 0; i < dim; i++) score += query[i] * keys[l * stride + i];
    scores[l] = score * scaling;
  }
  float total = weigh(scores, num);
  for (int64_t l = 0; l < num; l++)
    for (int64_t i = 0; i < dim; i++) sums[i] += scores[l] * keys[behind + l * stride + i];
  for (int64_t i = 0; i < dim; i++) out[i] = sums[i] / total;
}

/* Sums of neighbours: a0 + a1, a2 + a3, ..., b0 + b1, ... Repeated on LANES vectors, it gives the sum of each. */
static inline Vector neighbours(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, EVEN) + __builtin_shufflevector(a, b, ODD);
}

/* Like attend_any, for heads of ``vectors`` * LANES numbers (``vectors`` is a constant at every call, as this is
 * inlined), and for ``rows`` consecutive tokens of one slot, which share each read of keys and values. The first token
 * has ``num`` keys, each further one has one more. Strides: ``query_stride``, ``out_stride``; ``room`` for scores. */
static inline __attribute__((always_inline)) void attend(int vectors, const float *query, int64_t query_stride,
                                                         int64_t rows, float scaling, const float *keys,
                                                         int64_t behind, int64_t stride, int64_t num, float *scores,
                                                         int64_t room, float *out, int64_t out_stride) {
  enum { MOST = LARGEST_HEAD / LANES };
  Vector sums[ROWS][CHAINS][MOST];
  float totals[ROWS];
  for (int64_t l = 0; l < num + rows - 1; l += LANES)
    for (int64_t r = 0; r < rows; r++) {
      Vector q[MOST], part[LANES];
      if (l >= num + r) continue;
      for (int v = 0; v < vectors; v++) q[v] = *(const Vector *)(query + r * query_stride + v * LANES) * scaling;
      for (int k = 0; k < LANES; k++) {
        const float *key = keys + (l + k < num + r ? l + k : num + r - 1) * stride;
        part[k] = q[0] * *(const Vector *)key;
        for (int v = 1; v < vectors; v++) part[k] += q[v] * *(const Vector *)(key + v * LANES);
      }
      for (int left = LANES / 2; left; left /= 2)
        for (int k = 0; k < left; k++) part[k] = neighbours(part[2 * k], part[2 * k + 1]);
      *(Vector *)(scores + r * room + l) = part[0];
    }
  for (int64_t r = 0; r < rows; r++) {
    totals[r] = weigh(scores + r * room, num + r);
    for (int c = 0; c < CHAINS; c++)
      for (int v = 0; v < vectors; v++) sums[r][c][v] = (Vector){0};
  }
  for (int64_t l = 0; l < num + rows - 1; l += LANES)
    for (int64_t r = 0; r < rows; r++) {
      const float *weights = scores + r * room;
      Vector chains[CHAINS][MOST];
      if (l >= num + r) continue;
      for (int c = 0; c < CHAINS; c++)
        for (int v = 0; v < vectors; v++) chains[c][v] = sums[r][c][v];
      for (int64_t k = l; k < l + LANES; k += CHAINS) /* weights after the last are 0, so any value will do */
        for (int c = 0; c < CHAINS; c++) {
          const float *value = keys + behind + (k + c < num + r ? k + c : num + r - 1) * stride;
          for (int v = 0; v < vectors; v++) chains[c][v] += weights[k + c] * *(const Vector *)(value + v * LANES);
        }
      for (int c = 0; c < CHAINS; c++)
        for (int v = 0; v < vectors; v++) sums[r][c][v] = chains[c][v];
    }
  for (int64_t r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++)
      *(Vector *)(out + r * out_stride + v * LANES) =
          ((sums[r][0][v] + sums[r][1][v]) + (sums[r][2][v] + sums[r][3][v])) / totals[r];
}

/* One head of ``rows`` consecutive tokens of one slot, the first with ``num`` keys; ``slot`` begins at its keys. */
static void attend_rows(const Model *m, const float *query, int64_t query_stride, int64_t rows, const float *keys,
                        int64_t num, float *scores, int64_t room, float *out) {
  int64_t dim = m->head_dim, behind = m->kv_heads * dim, width = m->heads * dim;
#define ATTEND(vectors)                                                                                              \
  attend(vectors, query, query_stride, rows, m->scaling, keys, behind, 2 * behind, num, scores, room, out, width)
  switch (dim % LANES ? 0 : dim / LANES) {
  case 2: ATTEND(2); break;
  case 4: ATTEND(4); break;
  case 8: ATTEND(8); break;
  case 16: ATTEND(16); break;
  default:
    for (int64_t r = 0; r < rows; r++)
      attend_any(dim, query + r * query_stride, m->scaling, keys, behind, 2 * behind, num + r, scores,
                 out + r * width);
  }
#undef ATTEND
}

/* --------------------------------------------------------------------------- the pass */

typedef struct {
  const Model *m;
  const Cache *cache;
  const Pass *pass;
  int64_t num_groups;
  const int32_t *groups; /* [num_groups + 1]: where each group of tokens begins, and the end */
  float *x, *normed, *qkv, *attended, *gate_up, *active, *scores, *logits; /* scores of each member */
} Forward;

/* Splits a pass into groups of up to ROWS consecutive tokens of one slot; returns their number. */
static int64_t group(const Pass *pass, int32_t *groups) {
  int64_t num = 0;
  for (int64_t t = 0, rows; t < pass->num_tokens; t += rows) {
    const int32_t *slot = pass->slots + t, *position = pass->positions + t;
    int64_t most = pass->num_tokens - t < ROWS ? pass->num_tokens - t : ROWS;
    for (rows = 1; rows < most && slot[rows] == slot[0] && position[rows] == position[0] + rows;) rows++;
    groups[num++] = t;
  }
  groups[num] = pass->num_tokens;
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

/* Attention of one head of one group of tokens. */
static void attend_group(const Forward *f, const float *kv, int64_t g, int64_t head, float *scores) {
  const Model *m = f->m;
  int64_t dim = m->head_dim, queries = m->heads * dim, per_token = 2 * m->kv_heads * dim, t = f->groups[g];
  const float *keys = kv + f->pass->slots[t] * f->cache->max_context * per_token + head / (m->heads / m->kv_heads) * dim;
  attend_rows(m, f->qkv + t * (queries + per_token) + head * dim, queries + per_token, f->groups[g + 1] - t, keys,
              f->pass->positions[t] + 1, scores, scores_room(f->cache->max_context),
              f->attended + t * queries + head * dim);
}

/* What one member does of a pass. */
static void share_of_forward(Team *team, int64_t member, const void *what) {
  const Forward *f = what;
  const Model *m = f->m;
  const Pass *pass = f->pass;
  int64_t num = pass->num_tokens, width = m->width, inner = m->inner, queries = m->heads * m->head_dim;
  int64_t qkv_len = queries + 2 * m->kv_heads * m->head_dim;
  float *scores = f->scores + member * ROWS * scores_room(f->cache->max_context);
  SHARED(team, t, num)
    look_up(&m->embedding, pass->ids[t], width, f->x + t * width);
  meet(team);
  for (int64_t i = 0; i < m->num_layers; i++) {
    const Layer *layer = m->layers + i;
    float *kv = f->cache->layers[i];
    SHARED(team, t, num) norm(f->x + t * width, layer->norm1, 1, width, m->eps, f->normed + t * width);
    meet(team);
    product(team, f->normed, num, width, &layer->qkv, layer->qkv_bias, f->qkv, qkv_len, 0);
    SHARED(team, t, num) store(f, layer, kv, t, f->qkv + t * qkv_len);
    meet(team);
    SHARED(team, part, f->num_groups * m->heads) attend_group(f, kv, part / m->heads, part % m->heads, scores);
    meet(team);
    product(team, f->attended, num, queries, &layer->out, layer->out_bias, f->x, width, 1);
    SHARED(team, t, num) norm(f->x + t * width, layer->norm2, 1, width, m->eps, f->normed + t * width);
    meet(team);
    product(team, f->normed, num, width, &layer->gate_up, layer->gate_up_bias, f->gate_up, 2 * inner, 0);
    SHARED(team, t, num) activate(f->gate_up + 2 * t * inner, inner, f->active + t * inner);
    meet(team);
    product(team, f->active, num, inner, &layer->down, layer->down_bias, f->x, width, 1);
  }
  SHARED(team, i, pass->num_wanted)
    norm(f->x + pass->wanted[i] * width, m->norm, 1, width, m->eps, f->normed + i * width);
  meet(team);
  product(team, f->normed, pass->num_wanted, width, &m->head, 0, f->logits, m->vocab, 0);
}

/* Writes the pass to the cache, and the logits of the wanted tokens [num_wanted, V]. */
void adasd_forward(Team *team, const Model *m, const Cache *cache, const Pass *pass, float *scratch, float *logits) {
  int64_t num = pass->num_tokens, queries = m->heads * m->head_dim;
  Forward f = {.m = m, .cache = cache, .pass = pass, .logits = logits};
  f.x = scratch;
  f.normed = f.x + num * m->width;
  f.qkv = f.normed + num * m->width;
  f.attended = f.qkv + num * (queries + 2 * m->kv_heads * m->head_dim);
  f.gate_up = f.attended + num * queries;
  f.active = f.gate_up + 2 * num * m->inner;
  f.scores = f.active + num * m->inner;
  int32_t *groups = (int32_t *)(f.scores + (team->num_started + 1) * ROWS * scores_room(cache->max_context));
  f.num_groups = group(pass, groups);
  f.groups = groups;
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
