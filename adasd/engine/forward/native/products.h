/* Products of rows with packed matrices.
 *
 * Matrices are packed in panels of PANEL columns, [panel][row][PANEL], so that a panel is read from front to back.
 * Weights that sixteen bits hold exactly take two bytes and are widened in registers, so a pass reads half of the
 * memory, and gives the numbers of full weights. Rounded weights take a byte; what they are multiplied with is rounded,
 * too, so that a product of bytes is a whole number, four of them to an instruction (see ``rounded_tile``).
 */
#ifndef ADASD_PRODUCTS_H
#define ADASD_PRODUCTS_H

#include <stdint.h>
#include <string.h>
#include "team.h"
#include "vectors.h"

enum { TILE = 6, CHUNK = 8 * TILE, PANEL = LANES * VECTORS };
enum { GROUP = 32, LARGEST = 127, OFFSET = 128 }; /* as in adasd.engine.forward.int8 */
enum { GROUP_BYTES = (GROUP + 1) * PANEL }; /* of a group of a rounded panel */
enum { READ_AHEAD = 4 * GROUP_BYTES };      /* bytes; measured */

#if defined(__ARM_FEATURE_DOTPROD)
enum { SIGNED_PRODUCTS = 1 }; /* products of bytes are of signed ones, so OFFSET is taken from the weights */
#else
enum { SIGNED_PRODUCTS = 0 }; /* of unsigned weights with signed numbers */
#endif

typedef enum { FULL, ROUNDED, HALF, BRAIN } Kind; /* float, bytes, IEEE's sixteen bits, the upper half of a float */
static const int64_t WIDTHS[] = {4, 1, 2, 2};     /* bytes of a weight of each kind */

/* Panels of ROUNDED hold, for each GROUP of rows, its weights as [GROUP / 4][PANEL][4] bytes with OFFSET added, and
 * [PANEL] steps, 1 to LARGEST. A weight is byte * step * scale of its column. */
typedef struct {
  const void *panels;
  const float *scales; /* of ROUNDED: [columns], padded to whole panels */
  int64_t kind;
} Matrix;

typedef struct {    /* rows of activations; a number is byte * step of its group */
  int8_t *bytes;    /* [rows, groups, GROUP] */
  float *steps;     /* [rows, groups] */
  int32_t *offsets; /* [rows, groups]: what the OFFSET of the weights adds to a product, negative */
} Rounded;

static int64_t groups_of(int64_t inner) { return (inner + GROUP - 1) / GROUP; }

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

/* ``sum`` and, in each lane, the products of its four bytes of ``weights`` (less OFFSET if SIGNED_PRODUCTS) with those
 * of ``four``. */
static inline __attribute__((always_inline)) Whole products(Whole sum, Whole weights, int32_t four) {
#if defined(HAS_AVX512) && defined(__AVX512VNNI__)
  return (Whole)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(four));
#elif defined(__AVXVNNI__) && !defined(HAS_AVX512)
  return (Whole)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, _mm256_set1_epi32(four));
#elif defined(__AVX2__)
  Shorts numbers = (Shorts)((Whole){0} + four); /* bytes 0 and 2, then 1 and 3, each widened to two bytes */
  sum += product_pairs((Shorts)(weights & 0x00ff00ff), numbers << 8 >> 8);
  return sum + product_pairs((Shorts)((Unsigned)weights >> 8 & 0x00ff00ff), numbers >> 8);
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
    for (int v = 0; rows == TILE && first && v < VECTORS; v++) /* fewer rows: the processor reads ahead by itself */
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
    rounded_tile(few, !at, &some, groups, group, panel, sums + at);                                                  \
  } while (0)
    TILES(rows, ONE);
#undef ONE
  }
  for (int64_t r = 0; r < rows; r++) {
    for (int v = 0; v < VECTORS; v++) sums[r][v] *= *(const Vector *)(scales + v * LANES);
    put(sums[r], bias, y + r * stride, num, add);
  }
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

#endif
