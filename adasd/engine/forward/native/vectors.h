/* Vectors of the size that the processor has, by the extensions of GCC and Clang; intrinsics where compilers do not
 * find the instruction by themselves. */
#ifndef ADASD_VECTORS_H
#define ADASD_VECTORS_H

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

#if defined(HAS_AVX512)
enum { LANES = 16, VECTORS = 4, IN_REGISTERS = 16 };
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif defined(__AVX2__)
enum { LANES = 8, VECTORS = 2, IN_REGISTERS = 8 };
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
enum { LANES = 4, VECTORS = 4, IN_REGISTERS = 8 };
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#endif

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
#define ALIGNED __attribute__((aligned(64))) /* of arrays of vectors, so that none lies across two cache lines */
typedef int32_t Whole __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t Unsigned __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1)));
typedef int16_t Shorts __attribute__((vector_size(4 * LANES), aligned(2)));
typedef uint16_t Words __attribute__((vector_size(2 * LANES), aligned(2)));

static inline Vector choose(Whole where, Vector yes, Vector no) {
  return (Vector)((where & (Whole)yes) | (~where & (Whole)no));
}

/* Sums of neighbours: a0 + a1, a2 + a3, ..., b0 + b1, ... Repeated on LANES vectors, it gives the sum of each. */
static inline Vector neighbours(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, EVEN) + __builtin_shufflevector(a, b, ODD);
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

#if defined(__AVX2__)
/* In each lane the sum of two products of numbers of two bytes. */
static inline __attribute__((always_inline)) Whole product_pairs(Shorts a, Shorts b) {
#if defined(HAS_AVX512)
  return (Whole)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#else
  return (Whole)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#endif
}
#endif

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

#endif
