/* Attention of one head over keys and values that lie in the cache as they were written. */
#ifndef ADASD_ATTENTION_H
#define ADASD_ATTENTION_H

#include <stdint.h>
#include "vectors.h"

enum { LARGEST_HEAD = 256, MOST = LARGEST_HEAD / LANES }; /* numbers of a head; vectors of a head */
enum { ROWS = 8, SHARE = 4 };                             /* tokens of a run; those that share a read */
enum { CHAINS = 4 };                                      /* sums of values beside each other */

/* Floats for the scores of one token, with room for a last whole vector. */
static int64_t scores_room(int64_t max_context) { return max_context + LANES; }

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

/* Like attend, for up to ROWS tokens. As many share their reads as the registers hold queries of, or sums. */
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

/* One head of ``dim`` numbers for up to ROWS consecutive tokens, the first of which has ``num`` keys. Keys lie
 * ``stride`` floats apart, each value ``behind`` floats after its key. ``scores``: SHARE times ``room``. */
static void attend_rows(int64_t dim, const float *query, int64_t query_stride, int64_t rows, float scaling,
                        const float *keys, int64_t behind, int64_t stride, int64_t num, float *scores, int64_t room,
                        float *out, int64_t out_stride) {
#define ATTEND(vectors)                                                                                              \
  attend_all(vectors, query, query_stride, rows, scaling, keys, behind, stride, num, scores, room, out, out_stride)
  switch (dim % LANES ? 0 : dim / LANES) {
  case 2: ATTEND(2); break;
  case 4: ATTEND(4); break;
  case 8: ATTEND(8); break;
  case 16: ATTEND(16); break;
  default:
    for (int64_t r = 0; r < rows; r++)
      attend_any(dim, query + r * query_stride, scaling, keys, behind, stride, num + r, scores, out + r * out_stride);
  }
#undef ATTEND
}

#endif
