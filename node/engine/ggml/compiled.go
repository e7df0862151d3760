package ggml

/*
// What this package's own object was compiled for, which gets the same flags
// from CGO_CFLAGS as the engine's.
static const char *shoal_level(void) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
	return "x86-64-v4";
#elif defined(__AVX2__) && defined(__FMA__) && defined(__BMI2__) && defined(__F16C__)
	return "x86-64-v3";
#elif defined(__SSE4_2__) && defined(__POPCNT__)
	return "x86-64-v2";
#elif defined(__x86_64__)
	return "x86-64";
#elif defined(__ARM_FEATURE_DOTPROD)
	return "armv8-a+dotprod";
#elif defined(__aarch64__)
	return "armv8-a";
#else
	return "";
#endif
}
*/
import "C"

import "golang.org/x/sys/cpu"

// Level is what the engine was compiled for, such as x86-64-v3 or
// armv8-a+dotprod; "" on other processors.
func Level() string { return C.GoString(C.shoal_level()) }

// BuiltForThisMachine is a warning if this program was built for any x86-64
// while the machine can do much better, else "".
func BuiltForThisMachine() string {
	if level := Level(); cpu.X86.HasAVX2 && (level == "x86-64" || level == "x86-64-v2") {
		return "this program was built without AVX2, which this machine has: it computes 5 to 10 times slower than it could. Build it with `make`, which sets the C flags, or take the release that is not called baseline."
	}
	return ""
}
