// Says so when this program was compiled for a newer processor than this machine's,
// instead of being ended by the first instruction that is not known. That may be in
// a C++ constructor, long before main, so this comes before those.

#include <stdlib.h>
#include <unistd.h>

#if defined(__x86_64__)
#define PLAIN __attribute__((target("arch=x86-64")))
PLAIN static int fits(void) {
	__builtin_cpu_init();
#if defined(__AVX512F__)
	if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl"))
		return 0;
#endif
#if defined(__AVX2__)
	if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2"))
		return 0;
#endif
#if defined(__SSE4_2__)
	if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("popcnt"))
		return 0;
#endif
	return 1;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#define PLAIN
static int fits(void) {
#if defined(__ARM_FEATURE_DOTPROD)
	if (!(getauxval(AT_HWCAP) & (1 << 20))) // HWCAP_ASIMDDP
		return 0;
#endif
#if defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
	if (!(getauxval(AT_HWCAP) & (1 << 10))) // HWCAP_ASIMDHP
		return 0;
#endif
	return 1;
}
#else
#define PLAIN
static int fits(void) { return 1; }
#endif

// 101 is the first that programs may use.
PLAIN __attribute__((constructor(101))) static void check(void) {
	static const char text[] = "shoal: this program was built for a newer processor than this machine's: take the release that is called baseline, or build it here with `make`\n";
	if (fits())
		return;
	if (write(2, text, sizeof text - 1) < 0)
		_exit(2);
	_exit(1);
}
