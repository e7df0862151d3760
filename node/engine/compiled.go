package engine

/*
static int shoal_avx2(void) {
#ifdef __AVX2__
	return 1;
#else
	return 0;
#endif
}
*/
import "C"

// compiledWithAVX2 tells by this package's own object, which gets the same
// flags from CGO_CFLAGS as the engine's.
func compiledWithAVX2() bool { return C.shoal_avx2() == 1 }
