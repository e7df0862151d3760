// One row times a matrix, to the last bit as ggml computes that row among others.
//
// ggml's tiled multiplication declines passes of one row, and what it falls back to sums
// in another order: two answers that share a pass would not have the bits that each has
// alone. The linker sends calls of the tiled multiplication here first (the flag is in
// single.go). Where it would decline only because there is one row, that row is computed
// here: per number of the result one vector of sums, over the columns in their order,
// whose lanes are added in the tiled one's order. Rows of the matrix are taken several at
// a time, which is faster than one by one.

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// The beginning of ggml's description of a thread's part in an operation.
struct part { int ith, nth; };

enum { F32 = 0, F16 = 1, Q4_0 = 2, Q5_0 = 6, Q8_0 = 8, IQ4_NL = 20, BF16 = 30 };

// Weak because cgo links each package alone first.
extern bool __real_llamafile_sgemm(const void *, int64_t, int64_t, int64_t, const void *, int64_t,
	const void *, int64_t, void *, int64_t, int, int, int) __attribute__((weak));

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE float sum4(__m128 x) {
	x = _mm_add_ps(x, _mm_movehl_ps(x, x));
	return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

INLINE float sum8(__m256 x) { return sum4(_mm_add_ps(_mm256_extractf128_ps(x, 1), _mm256_castps256_ps128(x))); }

// Vectors of floats, as wide as the tiled multiplication's.

#if defined(__AVX512F__)
#define LANES 16
typedef __m512 floats;
INLINE floats load_f32(const void *p) { return _mm512_loadu_ps(p); }
INLINE floats load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INLINE floats load_bf16(const void *p) {
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
INLINE floats fma_f(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE floats zero(void) { return _mm512_setzero_ps(); }
INLINE float sum(floats x) { return _mm512_reduce_add_ps(x); }
#else
#define LANES 8
typedef __m256 floats;
INLINE floats load_f32(const void *p) { return _mm256_loadu_ps(p); }
INLINE floats load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
INLINE floats load_bf16(const void *p) {
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
INLINE floats fma_f(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
INLINE floats zero(void) { return _mm256_setzero_ps(); }
INLINE float sum(floats x) { return sum8(x); }
#endif

// FLOATS defines the product of n rows of a matrix, which are stride bytes apart, and b.
#define FLOATS(name, n, load, size) \
	INLINE void name(int64_t k, const char *a, int64_t stride, const char *b, float *c) { \
		floats s[n]; \
		for (int i = 0; i < n; i++) \
			s[i] = zero(); \
		for (int64_t l = 0; l < k * size; l += LANES * size) { \
			floats x = load(b + l); \
			for (int i = 0; i < n; i++) \
				s[i] = fma_f(load(a + i * stride + l), x, s[i]); \
		} \
		for (int i = 0; i < n; i++) \
			c[i] = sum(s[i]); \
	}

FLOATS(f32_8, 8, load_f32, 4)
FLOATS(f32_1, 1, load_f32, 4)
FLOATS(f16_8, 8, load_f16, 2)
FLOATS(f16_1, 1, load_f16, 2)
FLOATS(bf16_8, 8, load_bf16, 2)
FLOATS(bf16_1, 1, load_bf16, 2)

// Blocks of 32 small integers behind a scale in half precision.

INLINE float scale(const char *block) {
	uint16_t d;
	memcpy(&d, block, 2);
	return _cvtsh_ss(d);
}

INLINE __m256i nibbles(const char *p) { // the low ones of 16 bytes, then the high ones
	__m128i x = _mm_loadu_si128((const __m128i *)p);
	return _mm256_and_si256(_mm256_set1_epi8(15), _mm256_set_m128i(_mm_srli_epi16(x, 4), x));
}

INLINE __m256i load_q8_0(const char *block) { return _mm256_loadu_si256((const __m256i *)(block + 2)); }

INLINE __m256i load_q4_0(const char *block) { return _mm256_sub_epi8(nibbles(block + 2), _mm256_set1_epi8(8)); }

INLINE __m256i load_q5_0(const char *block) { // four bits here, the fifth in four bytes before them
	uint32_t high;
	memcpy(&high, block + 2, 4);
	const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
	const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
	__m256i set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)high), byte), bit);
	__m256i clear = _mm256_cmpeq_epi8(set, _mm256_setzero_si256());
	return _mm256_or_si256(nibbles(block + 6), _mm256_and_si256(clear, _mm256_set1_epi8((char)0xf0)));
}

INLINE __m256i load_iq4_nl(const char *block) {
	const __m128i values = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
	return _mm256_shuffle_epi8(_mm256_set_m128i(values, values), nibbles(block + 2));
}

// The sums of neighbouring products are exact, so it does not matter how they are made.
INLINE __m256 products(__m256i a, __m256i b) {
	__m256i p = _mm256_maddubs_epi16(_mm256_sign_epi8(a, a), _mm256_sign_epi8(b, a));
	return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_set1_epi16(1), p));
}

// BLOCKS is as FLOATS, for k blocks per row.
#define BLOCKS(name, n, load, size) \
	INLINE void name(int64_t k, const char *a, int64_t stride, const char *b, float *c) { \
		__m256 s[n]; \
		for (int i = 0; i < n; i++) \
			s[i] = _mm256_setzero_ps(); \
		for (int64_t l = 0; l < k; l++) { \
			__m256i x = load_q8_0(b + l * 34); \
			float d = scale(b + l * 34); \
			for (int i = 0; i < n; i++) { \
				const char *block = a + i * stride + l * size; \
				s[i] = _mm256_fmadd_ps(_mm256_set1_ps(scale(block) * d), products(load(block), x), s[i]); \
			} \
		} \
		for (int i = 0; i < n; i++) \
			c[i] = sum8(s[i]); \
	}

BLOCKS(q8_0_4, 4, load_q8_0, 34)
BLOCKS(q8_0_1, 1, load_q8_0, 34)
BLOCKS(q4_0_4, 4, load_q4_0, 18)
BLOCKS(q4_0_1, 1, load_q4_0, 18)
BLOCKS(q5_0_4, 4, load_q5_0, 22)
BLOCKS(q5_0_1, 1, load_q5_0, 22)
BLOCKS(iq4_nl_4, 4, load_iq4_nl, 18)
BLOCKS(iq4_nl_1, 1, load_iq4_nl, 18)

// single computes this thread's part of the product. It returns false for a type that the
// tiled multiplication declines whatever the number of rows.
static bool single(const struct part *p, int64_t m, int64_t k, const char *a, int64_t lda, const char *b, float *c, int atype, int btype) {
	const int64_t step = ((m + p->nth - 1) / p->nth + 7) / 8 * 8;
	int64_t i = p->ith * step, end = i + step < m ? i + step : m;
	bool tiled = m % 4 == 0 && k % LANES == 0; // what it asks of floats
	int64_t stride;
#define ROWS(size, n, many, one) \
	for (stride = lda * size; i + n <= end; i += n) \
		many(k, a + i * stride, stride, b, c + i); \
	for (; i < end; i++) \
		one(k, a + i * stride, stride, b, c + i); \
	return true
	switch (atype) {
	case F32:
		if (btype != F32 || !tiled)
			return false;
		ROWS(4, 8, f32_8, f32_1);
	case F16:
		if (btype != F16 || !tiled)
			return false;
		ROWS(2, 8, f16_8, f16_1);
	case BF16:
		if (btype != BF16 || !tiled)
			return false;
		ROWS(2, 8, bf16_8, bf16_1);
	case Q8_0:
		if (btype != Q8_0)
			return false;
		ROWS(34, 4, q8_0_4, q8_0_1);
	case Q4_0:
		if (btype != Q8_0)
			return false;
		ROWS(18, 4, q4_0_4, q4_0_1);
	case Q5_0:
		if (btype != Q8_0)
			return false;
		ROWS(22, 4, q5_0_4, q5_0_1);
	case IQ4_NL:
		if (btype != Q8_0)
			return false;
		ROWS(18, 4, iq4_nl_4, iq4_nl_1);
	}
	return false;
}
#else
// Without AVX the tiled multiplication declines every pass.
static bool single(const struct part *p, int64_t m, int64_t k, const char *a, int64_t lda, const char *b, float *c, int atype, int btype) {
	return false;
}
#endif

bool __wrap_llamafile_sgemm(const struct part *p, int64_t m, int64_t n, int64_t k, const void *a, int64_t lda,
	const void *b, int64_t ldb, void *c, int64_t ldc, int atype, int btype, int ctype) {
	if (n == 1 && ctype == F32) {
		if (ldb != k)
			return false; // more such rows would not lie side by side, and be declined
#if defined(__AVX512BF16__)
		if (atype == BF16) // twice the same row, into the same place
			return __real_llamafile_sgemm(p, m, 2, k, a, lda, b, 0, c, 0, atype, btype, ctype);
#endif
		return single(p, m, k, a, lda, b, c, atype, btype);
	}
	return __real_llamafile_sgemm(p, m, n, k, a, lda, b, ldb, c, ldc, atype, btype, ctype);
}
