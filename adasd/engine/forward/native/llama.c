/* One forward pass of a Llama-family model over a slotted cache, in float32, or with products of bytes.
 *
 * Every number is computed by the same operations in the same order, independent of the rest of the batch and of the
 * number of threads: a product sums over its inner dimension from front to back, and attention goes over a token's keys
 * from the first to its own. So neither batch size nor block length changes a result, not even in its last bit.
 *
 * Matrices are packed in panels of PANEL columns, [panel][row][PANEL], so that a panel is read from front to back.
 * Weights that sixteen bits hold exactly take two bytes and are widened in registers, so a pass reads half of the
 * memory, and gives the numbers of full weights. Rounded weights take a byte; what they are multiplied with is rounded,
 * too, so that a product of bytes is a whole number, four of them to an instruction (see ``rounded_tile``).
 * Uses the vector extensions of GCC and Clang; vector sizes depend on the processor. See adasd.engine.forward.native.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) && defined(__AVX512BW__)
#define HAS_AVX512 1
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif
#include "team.h"

#if defined(HAS_AVX512)
enum { LANES = 16, VECTORS = 4, TILE = 6, IN_REGISTERS = 16 }; /* the last: vectors of queries, or of sums */
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif defined(__AVX2__)
enum { LANES = 8, VECTORS = 2, TILE = 6, IN_REGISTERS = 8 };
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
enum { LANES = 4, VECTORS = 4, TILE = 6, IN_REGISTERS = 8 };
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#endif
enum { PANEL = LANES * VECTORS, LARGEST_HEAD = 256, CHAINS = 4, ROWS = 8, CHUNK = 8 * TILE };
enum { GROUP = 32, LARGEST = 127, OFFSET = 128 }; /* as in adasd.engine.forward.int8 */
enum { GROUP_BYTES = (GROUP + 1) * PANEL };       /* of a group of a rounded panel */
enum { READ_AHEAD = 4 * GROUP_BYTES };            /* bytes; measured. Over whole tiles the processor does not read ahead by itself */

#if defined(__ARM_FEATURE_DOTPROD)
enum { SIGNED_PRODUCTS = 1 }; /* products of bytes are of signed ones, so OFFSET is taken from the weights */
#else
enum { SIGNED_PRODUCTS = 0 }; /* of unsigned weights with signed numbers */
#endif

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
#define ALIGNED __attribute__((aligned(64))) /* of arrays of vectors, so that none lies across two cache lines */
typedef int32_t Whole __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t Unsigned __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1)));
typedef uint16_t Words __attribute__((vector_size(2 * LANES), aligned(2)));

typedef enum { FULL, ROUNDED, HALF, BRAIN } Kind; /* float, bytes, IEEE's sixteen bits, the upper half of a float */
static const int64_t WIDTHS[] = {4, 1, 2, 2};     /* bytes of a weight of each kind */

/* Panels of ROUNDED hold, for each GROUP of rows, its weights as [GROUP / 4][PANEL][4] bytes with OFFSET added, and
 * [PANEL] steps, 1 to LARGEST. A weight is byte * step * scale of its column. */
typedef struct {
  const void *panels;
  const float *scales; /* of ROUNDED: [columns], padded to whole panels */
  int64_t kind;
} Matrix;

typedef struct {     /* rows of activations; a number is byte * step of its group */
  int8_t *bytes;     /* [rows, groups, GROUP] */
  float *steps;      /* [rows, groups] */
  int32_t *offsets;  /* [rows, groups]: what the OFFSET of the weights adds to a product, negative */
} Rounded;

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

static int64_t groups_of(int64_t inner) { return (inner + GROUP - 1) / GROUP; }

/* Groups of the longest row that a matrix is multiplied with. */
static int64_t most_groups(const Model *m) {
  int64_t queries = m->heads * m->head_dim, longest = m->inner > m->width ? m->inner : m->width;
  return groups_of(longest > queries ? longest : queries);
}

/* Floats of scratch space that a pass needs. */
int64_t adasd_scratch(const Model *m, int64_t num_tokens, int64_t max_context, int64_t num_threads) {
  int64_t qkv = (m->heads + 2 * m->kv_heads) * m->head_dim, rounded = most_groups(m) * (GROUP / 4 + 2);
  return num_tokens * (2 * m->width + qkv + m->heads * m->head_dim + 3 * m->inner + rounded + 1) + 1 +
         num_threads * ROWS * scores_room(max_context);
}

/* --------------------------------------------------------------------------- products */

static inline Vector choose(Whole where, Vector yes, Vector no) {
  return (Vector)((where & (Whole)yes) | (~where & (Whole)no));
}

/* LANES bytes as floats. Compilers do not find these instructions in a conversion of vectors. */
static inline __attribute__((always_inline)) Vector of_bytes(const int8_t *bytes) {
#if defined(HAS_AVX512)
  return (Vector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)bytes)));
#elif defined(__AVX2__)
  return (Vector)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)bytes)));
#else
  return __builtin_convertvector(*(const Bytes *)bytes, Vector);
#endif
}

/* LANES words, each in the lower half of a whole number. */
static inline __attribute__((always_inline)) Whole of_words(const uint16_t *words) {
#if defined(HAS_AVX512)
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
#if defined(HAS_AVX512)
  return (Vector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)words));
#elif defined(__AVX2__) && defined(__F16C__)
  return (Vector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)words));
#else
  Whole bits = of_words(words);
  Vector size = (Vector)((bits & 0x7fff) << 13) * 0x1p112f;
  return (Vector)((Whole)size | (bits & 0x8000) << 16);
#endif
}

/* LANES weights from number ``at`` on. */
static inline __attribute__((always_inline)) Vector widened(Kind kind, const void *weights, int64_t at) {
  switch (kind) {
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

/* Writes one row of ``num`` columns of a panel: to = sum (+ bias) (+ to). */
static inline __attribute__((always_inline)) void put(const Vector *sum, const float *bias, float *to, int64_t num,
                                                      int add) {
  if (num == PANEL) {
    for (int v = 0; v < VECTORS; v++) {
      Vector value = bias ? sum[v] + *(const Vector *)(bias + v * LANES) : sum[v];
      *(Vector *)(to + v * LANES) = add ? *(Vector *)(to + v * LANES) + value : value;
    }
    return;
  }
  for (int64_t i = 0; i < num; i++) {
    float value = sum[i / LANES][i % LANES] + (bias ? bias[i] : 0);
    to[i] = add ? to[i] + value : value;
  }
}

/* ``rows`` rows of y = x w (+ bias) (+ y) over one panel; ``rows`` and ``kind`` are constants at every call, as this is
 * inlined. */
static inline __attribute__((always_inline)) void tile(int rows, Kind kind, const float *x, int64_t inner,
                                                       const void *panel, const float *bias, float *y, int64_t stride,
                                                       int64_t num, int add) {
  Vector sum[TILE][VECTORS];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < VECTORS; v++) sum[r][v] = (Vector){0};
  for (int64_t k = 0; k < inner; k++) {
    Vector part[VECTORS];
    for (int v = 0; v < VECTORS; v++) part[v] = widened(kind, panel, k * PANEL + v * LANES);
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < VECTORS; v++) sum[r][v] += x[r * inner + k] * part[v];
  }
  for (int r = 0; r < rows; r++) put(sum[r], bias, y + r * stride, num, add);
}

/* Runs ``one(rows, at)`` for all rows, TILE at a time; the first argument is a constant each time. */
#define TILES(rows, one)                                                                                             \
  do {                                                                                                               \
    int64_t at = 0;                                                                                                  \
    for (; at + TILE <= (rows); at += TILE) one(TILE, at);                                                           \
    switch ((rows) - at) {                                                                                           \
    case 5: one(5, at); break;                                                                                       \
    case 4: one(4, at); break;                                                                                       \
    case 3: one(3, at); break;                                                                                       \
    case 2: one(2, at); break;                                                                                       \
    case 1: one(1, at); break;                                                                                       \
    }                                                                                                                \
  } while (0)

/* All rows of one panel; ``kind`` is a constant at every call. */
static inline __attribute__((always_inline)) void panel_rows(Kind kind, const float *x, int64_t rows, int64_t inner,
                                                             const void *panel, const float *bias, float *y,
                                                             int64_t stride, int64_t num, int add) {
#define ONE(few, at) tile(few, kind, x + at * inner, inner, panel, bias, y + at * stride, stride, num, add)
  TILES(rows, ONE);
#undef ONE
}

/* ``sum`` and, in each lane, the products of the four bytes of ``weights`` (less OFFSET if SIGNED_PRODUCTS) and of ``four``. */
static inline __attribute__((always_inline)) Whole products(Whole sum, Whole weights, int32_t four) {
#if defined(HAS_AVX512) && defined(__AVX512VNNI__)
  return (Whole)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(four));
#elif defined(HAS_AVX512)
  __m512i all = _mm512_set1_epi32(four), w = (__m512i)weights;
  __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(all, 8), 8), odd = _mm512_srai_epi16(all, 8);
  sum += (Whole)_mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(255)), even);
  return sum + (Whole)_mm512_madd_epi16(_mm512_srli_epi16(w, 8), odd);
#elif defined(__AVXVNNI__)
  return (Whole)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, _mm256_set1_epi32(four));
#elif defined(__AVX2__)
  __m256i all = _mm256_set1_epi32(four), w = (__m256i)weights;
  __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8), odd = _mm256_srai_epi16(all, 8);
  sum += (Whole)_mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), even);
  return sum + (Whole)_mm256_madd_epi16(_mm256_srli_epi16(w, 8), odd);
#elif defined(__ARM_FEATURE_DOTPROD)
  int8x16_t w = (int8x16_t)(weights ^ (int32_t)0x80808080);
  return (Whole)vdotq_s32((int32x4_t)sum, w, (int8x16_t)vdupq_n_s32(four));
#else
  for (int i = 0; i < 4; i++) sum += (Whole)((Unsigned)weights >> 8 * i & 255) * (int32_t)(int8_t)(four >> 8 * i);
  return sum;
#endif
}

/* Adds the products of ``rows`` rows with one group of a panel; ``rows`` is a constant at every call. Sums of a group
 * are whole numbers, so they do not depend on the order. ``first``: whether no row before them has read the group. */
static inline __attribute__((always_inline)) void rounded_tile(int rows, int first, const Rounded *x, int64_t groups,
                                                               int64_t group, const char *panel,
                                                               Vector (*sums)[VECTORS]) {
  Whole whole[TILE][VECTORS];
  const int8_t *steps = (const int8_t *)panel + GROUP * PANEL;
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < VECTORS; v++) whole[r][v] = (Whole){0} + (SIGNED_PRODUCTS ? 0 : x->offsets[r * groups + group]);
  for (int64_t k = 0; k < GROUP / 4; k++) {
    Whole weights[VECTORS];
    for (int v = 0; v < VECTORS; v++) weights[v] = *(const Whole *)(panel + 4 * (k * PANEL + v * LANES));
    for (int v = 0; rows == TILE && first && v < VECTORS; v++)
      __builtin_prefetch(panel + 4 * (k * PANEL + v * LANES) + READ_AHEAD, 0, 2);
    for (int r = 0; r < rows; r++) {
      int32_t four;
      memcpy(&four, x->bytes + (r * groups + group) * GROUP + 4 * k, 4);
      for (int v = 0; v < VECTORS; v++) whole[r][v] = products(whole[r][v], weights[v], four);
    }
  }
  for (int v = 0; v < VECTORS; v++) {
    Vector step = of_bytes(steps + v * LANES);
    for (int r = 0; r < rows; r++)
      sums[r][v] += __builtin_convertvector(whole[r][v], Vector) * (step * x->steps[r * groups + group]);
  }
}

/* Rows from ``row`` on. */
static inline Rounded rows_of(const Rounded *x, int64_t row, int64_t groups) {
  return (Rounded){x->bytes + row * groups * GROUP, x->steps + row * groups, x->offsets + row * groups};
}

/* All rows of one rounded panel, group by group, so that a group's weights are read once for all rows. */
static void rounded_rows(const Rounded *x, int64_t rows, int64_t groups, const char *panel, const float *scales,
                         const float *bias, float *y, int64_t stride, int64_t num, int add) {
  ALIGNED Vector sums[CHUNK][VECTORS];
  memset(sums, 0, rows * sizeof(*sums));
  for (int64_t group = 0; group < groups; group++, panel += GROUP_BYTES) {
#define ONE(few, at)                                                                                                 \
  do {                                                                                                               \
    Rounded some = rows_of(x, at, groups);                                                                           \
    rounded_tile(few, !at, &some, groups, group, panel, sums + at);                                                    \
  } while (0)
    TILES(rows, ONE);
#undef ONE
  }
  for (int64_t r = 0; r < rows; r++) {
    for (int v = 0; v < VECTORS; v++) sums[r][v] *= *(const Vector *)(scales + v * LANES);
    put(sums[r], bias, y + r * stride, num, add);
  }
}

static inline int32_t largest_lane(Whole lanes) {
#if defined(HAS_AVX512)
  return _mm512_reduce_max_epi32((__m512i)lanes);
#else
  int32_t largest = lanes[0];
  for (int lane = 1; lane < LANES; lane++) largest = lanes[lane] > largest ? lanes[lane] : largest;
  return largest;
#endif
}

static inline int32_t sum_of_lanes(Whole lanes) {
#if defined(HAS_AVX512)
  return _mm512_reduce_add_epi32((__m512i)lanes);
#else
  int32_t sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
  return sum;
#endif
}

/* Rounds row ``t`` of what ``w`` is multiplied with, if ``w`` is rounded: to whole numbers of steps, of which a group's
 * largest number has LARGEST. A number that is not finite spoils the products of its group. */
static void prepare(const Rounded *x, int64_t t, const Matrix *w, const float *row, int64_t inner) {
  if (w->kind != ROUNDED) return;
  const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
  int64_t groups = groups_of(inner);
  for (int64_t g = 0, at = t * groups; g < groups; g++, at++) {
    Vector numbers[GROUP / LANES] = {0};
    Whole most = {0}, sums = {0};
    memcpy(numbers, row + g * GROUP, (inner - g * GROUP < GROUP ? inner - g * GROUP : GROUP) * sizeof(float));
    for (int i = 0; i < GROUP / LANES; i++) {
      Whole size = (Whole)numbers[i] & 0x7fffffff; /* sizes are in the order of their bits; NaN is the largest */
      Whole larger = size > most;
      most = (size & larger) | (most & ~larger);
    }
    int32_t bits = largest_lane(most);
    float largest;
    memcpy(&largest, &bits, sizeof(largest));
    float per_number = largest > 1e-30f ? LARGEST / largest : 0;
    for (int i = 0; i < GROUP / LANES; i++) {
      Whole rounded = (Whole)(numbers[i] * per_number + magic) - 0x4B400000;
      Bytes bytes = __builtin_convertvector(rounded, Bytes);
      memcpy(x->bytes + at * GROUP + i * LANES, &bytes, LANES);
      sums += rounded;
    }
    x->steps[at] = largest / LARGEST;
    x->offsets[at] = (int32_t)(0u - OFFSET * (uint32_t)sum_of_lanes(sums));
  }
}

/* y [rows, num] = x [rows, inner] w + bias, added to what y holds if ``add``; shared by panels and chunks of rows.
 * ``rounded``: the rows of x, prepared. */
static void product(Team *team, const float *x, const Rounded *rounded, int64_t rows, int64_t inner, const Matrix *w,
                    const float *bias, float *y, int64_t num, int add) {
  int64_t chunks = (rows + CHUNK - 1) / CHUNK, panels = (num + PANEL - 1) / PANEL, groups = groups_of(inner);
  SHARED(team, part, panels * chunks) {
    int64_t first = part / chunks * PANEL, row = part % chunks * CHUNK;
    int64_t here = num - first < PANEL ? num - first : PANEL, some = rows - row < CHUNK ? rows - row : CHUNK;
    const float *b = bias ? bias + first : 0, *from = x + row * inner;
    float *to = y + row * num + first;
    const char *panel = w->panels;
    if (w->kind == ROUNDED) {
      Rounded r = rows_of(rounded, row, groups);
      panel += part / chunks * groups * GROUP_BYTES;
      rounded_rows(&r, some, groups, panel, w->scales + first, b, to, num, here, add);
      continue;
    }
    panel += first * inner * WIDTHS[w->kind];
    switch (w->kind) {
    case HALF: panel_rows(HALF, from, some, inner, panel, b, to, num, here, add); break;
    case BRAIN: panel_rows(BRAIN, from, some, inner, panel, b, to, num, here, add); break;
    default: panel_rows(FULL, from, some, inner, panel, b, to, num, here, add);
    }
  }
  meet(team);
}

/* --------------------------------------------------------------------------- elementwise */

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

enum { MOST = LARGEST_HEAD / LANES, SHARE = 4 }; /* vectors of a head; rows that share a read at most */

/* Scores of LANES keys for ``rows`` queries, which share each read of a key; scores of keys after ``last`` are any
 * numbers. ``vectors`` and ``rows`` are constants at every call. */
static inline __attribute__((always_inline)) void score(int vectors, int rows, const Vector (*q)[MOST],
                                                        const float *keys, int64_t stride, int64_t last, float *scores,
                                                        int64_t room) {
  ALIGNED Vector part[SHARE][LANES / 2];
  for (int k = 0; k < LANES; k += 2) {
    const float *one = keys + (k < last ? k : last) * stride, *two = keys + (k + 1 < last ? k + 1 : last) * stride;
    Vector a[MOST], b[MOST];
    for (int v = 0; v < vectors; v++) {
      a[v] = *(const Vector *)(one + v * LANES);
      b[v] = *(const Vector *)(two + v * LANES);
    }
    for (int r = 0; r < rows; r++) {
      Vector by_a = {0}, by_b = {0}; /* a sum of one kind of step, so every compiler fuses it alike for all ``rows`` */
      for (int v = 0; v < vectors; v++) by_a += q[r][v] * a[v], by_b += q[r][v] * b[v];
      part[r][k / 2] = neighbours(by_a, by_b);
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int left = LANES / 4; left; left /= 2)
      for (int k = 0; k < left; k++) part[r][k] = neighbours(part[r][2 * k], part[r][2 * k + 1]);
    *(Vector *)(scores + r * room) = part[r][0];
  }
}

/* Adds ``num`` values times their weights, for ``rows`` rows of weights, which share each read of a value: those of
 * every CHAINS-th value to a sum of their own, from front to back. Values after ``last`` have weight 0. */
static inline __attribute__((always_inline)) void mix(int vectors, int rows, const float *weights, int64_t room,
                                                      const float *values, int64_t stride, int64_t num, int64_t last,
                                                      Vector (*sums)[CHAINS][MOST]) {
  for (int c = 0; c < CHAINS; c++) {
    Vector chain[SHARE][MOST];
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < vectors; v++) chain[r][v] = sums[r][c][v];
    for (int64_t k = c; k < num; k += CHAINS) {
      const float *value = values + (k < last ? k : last) * stride;
      for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) chain[r][v] += weights[r * room + k] * *(const Vector *)(value + v * LANES);
    }
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < vectors; v++) sums[r][c][v] = chain[r][v];
  }
}

/* Like attend_any, for heads of ``vectors`` * LANES numbers and ``rows`` consecutive tokens of one slot (constants at
 * every call). The first token has ``num`` keys, each further one has one more. What all have is read once for all. */
static inline __attribute__((always_inline)) void attend(int vectors, int rows, const float *query,
                                                         int64_t query_stride, float scaling, const float *keys,
                                                         int64_t behind, int64_t stride, int64_t num, float *scores,
                                                         int64_t room, float *out, int64_t out_stride) {
  int64_t common = num / LANES * LANES;
  ALIGNED Vector q[SHARE][MOST], sums[SHARE][CHAINS][MOST];
  float totals[SHARE];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++) q[r][v] = *(const Vector *)(query + r * query_stride + v * LANES) * scaling;
  for (int64_t l = 0; l < common; l += LANES)
    score(vectors, rows, q, keys + l * stride, stride, LANES, scores + l, room);
  for (int r = 0; r < rows; r++) {
    float *row = scores + r * room;
    for (int64_t l = common; l < num + r; l += LANES)
      score(vectors, 1, q + r, keys + l * stride, stride, num + r - 1 - l, row + l, room);
    totals[r] = weigh(row, num + r);
    for (int c = 0; c < CHAINS; c++)
      for (int v = 0; v < vectors; v++) sums[r][c][v] = (Vector){0};
  }
  mix(vectors, rows, scores, room, keys + behind, stride, common, common, sums);
  for (int r = 0; r < rows; r++) {
    int64_t left = num + r - common, whole = (left + LANES - 1) / LANES * LANES;
    mix(vectors, 1, scores + r * room + common, room, keys + behind + common * stride, stride, whole, left - 1,
        sums + r);
    for (int v = 0; v < vectors; v++)
      *(Vector *)(out + r * out_stride + v * LANES) =
          ((sums[r][0][v] + sums[r][1][v]) + (sums[r][2][v] + sums[r][3][v])) / totals[r];
  }
}

/* Like attend, for up to ROWS tokens. As many share their reads as the registers hold. */
static inline __attribute__((always_inline)) void attend_all(int vectors, const float *query, int64_t query_stride,
                                                             int64_t rows, float scaling, const float *keys,
                                                             int64_t behind, int64_t stride, int64_t num,
                                                             float *scores, int64_t room, float *out,
                                                             int64_t out_stride) {
  int64_t at = 0;
#define ATTEND(some)                                                                                                 \
  attend(vectors, some, query + at * query_stride, query_stride, scaling, keys, behind, stride, num + at, scores,     \
         room, out + at * out_stride, out_stride)
  for (; vectors * 4 <= IN_REGISTERS && at + 4 <= rows; at += 4) ATTEND(4);
  for (; vectors * 2 <= IN_REGISTERS && at + 2 <= rows; at += 2) ATTEND(2);
  for (; at < rows; at++) ATTEND(1);
#undef ATTEND
}

/* One head of ``rows`` consecutive tokens of one slot, the first with ``num`` keys, which begin at ``keys``. */
static void attend_rows(const Model *m, const float *query, int64_t query_stride, int64_t rows, const float *keys,
                        int64_t num, float *scores, int64_t room, float *out) {
  int64_t dim = m->head_dim, behind = m->kv_heads * dim, width = m->heads * dim;
#define ATTEND(vectors)                                                                                              \
  attend_all(vectors, query, query_stride, rows, m->scaling, keys, behind, 2 * behind, num, scores, room, out,        \
             width)
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
  int64_t dim = m->head_dim, queries = m->heads * dim, per_token = 2 * m->kv_heads * dim, t = f->runs[run];
  const float *keys = kv + f->pass->slots[t] * f->cache->max_context * per_token + head / (m->heads / m->kv_heads) * dim;
  attend_rows(m, f->qkv + t * (queries + per_token) + head * dim, queries + per_token, f->runs[run + 1] - t, keys,
              f->pass->positions[t] + 1, scores, scores_room(f->cache->max_context),
              f->attended + t * queries + head * dim);
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
  float *scores = f->scores + member * ROWS * scores_room(f->cache->max_context);
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
  int32_t *runs = (int32_t *)(f.scores + (team->num_started + 1) * ROWS * scores_room(cache->max_context));
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
