// What this package calls of llama.cpp's libraries, declared by itself.
#ifndef SHOAL_RANDOM_SHIM_H
#define SHOAL_RANDOM_SHIM_H

#include <stdbool.h>
#include <stdint.h>

enum { RANDOM_TENSORS = 4096 };

typedef struct {
	char name[64];
	int32_t type;
	int64_t shape[4];
} random_tensor;

typedef struct {
	random_tensor tensors[RANDOM_TENSORS];
	int n;
	bool ok;
	char error[2048];
} random_list;

// random_open opens the libraries. It returns NULL, or what failed.
const char *random_open(const char *dir, const char *base, const char *ggml, const char *llama);

// random_tensors has the library create the tensors of a model from its metadata.
void random_tensors(const char *path, random_list *out);

// random_answer has the library compute a whole model by itself: the n most likely
// tokens after a prompt. every: the library is asked for what follows each of the prompt's
// tokens, not for what follows the last one alone. It returns false if the library fails.
bool random_answer(const char *path, const int32_t *prompt, int length, bool every, int32_t *out, int n);

// random_embed has the library compute a whole model by itself: the n numbers of a
// text's embedding. It returns false if the library fails.
bool random_embed(const char *path, const int32_t *text, int length, float *out, int n);

#endif
