// What this package calls of llama.cpp's libraries, declared by itself: only the
// functions below, by name, and only the fields of structs that versions.go lists.
#ifndef SHOAL_LLAMA_SHIM_H
#define SHOAL_LLAMA_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Larger than any version's parameters. The library reads the part in front that it
// knows: structs of this size pass by value in memory, wherever C does so.
enum { SL_PARAMS = 512 };
typedef struct {
	_Alignas(16) unsigned char bytes[SL_PARAMS];
} sl_params;

// sl_open opens the files, the libraries that others need first, and looks up every
// function. It returns NULL, or what failed.
const char *sl_open(const char *base, const char *ggml, const char *llama);
const char *sl_lacks(void); // a function that is not there, though it must be; or NULL

const char *sl_version(void);      // of llama.cpp; NULL: a version that cannot say
const char *sl_ggml_version(void); // NULL likewise
void sl_log_to_go(void);
void sl_backends(const char *dir); // loads what computes on this machine's devices

// The default parameters, with their sizes as far as they can be seen; 0: not here.
int sl_model_defaults(sl_params *out);
int sl_context_defaults(sl_params *out);

// Addresses of callbacks, for fields of parameters.
void *sl_eval_callback(void);
void *sl_no_devices(void); // an empty list

int sl_device_count(void);
void *sl_device(int i);
const char *sl_device_name(void *device);
const char *sl_device_library(void *device);
int sl_device_type(void *device); // 0: the processor, 1: a GPU, 2: one with the host's memory, 3: an accelerator
void sl_device_memory(void *device, size_t *free, size_t *total);

void *sl_model_load(const char *path, const sl_params *params);
void sl_model_free(void *model);
int sl_model_blocks(void *model);
int sl_model_width(void *model);
int sl_model_width_in(void *model);
int sl_model_vocab(void *model);
int sl_model_rope(void *model);
bool sl_model_recurrent(void *model); // wholly or in part
bool sl_model_encodes(void *model);
bool sl_model_decodes(void *model);
uint64_t sl_model_bytes(void *model);
int sl_model_text(void *model, const char *key, char *out, size_t size);

// A pool's threads wait, asleep, for the passes of one context after another. NULL: this
// version of the library makes none. The contexts are freed before the pool is.
void *sl_pool(int threads);
void sl_pool_free(void *pool);
void sl_context_pool(void *context, void *pool);

void *sl_adapter(void *model, const char *path);

void *sl_context(void *model, const sl_params *params);
void sl_context_free(void *context);
void sl_frugal(void); // before anything large is allocated
void sl_trim(void); // gives freed memory back to the system
int sl_context_adapt(void *context, void **adapters, int n);
bool sl_context_remembers(void *context);
void sl_context_threads(void *context, int one, int many);

bool sl_remove(void *context, int seq, int from);
void sl_copy(void *context, int from, int to, int n);
size_t sl_state_size(void *context);
size_t sl_state_get(void *context, void *out, size_t size);
size_t sl_state_set(void *context, const void *in, size_t size);
size_t sl_seq_state_size(void *context, int seq);
size_t sl_seq_state_get(void *context, int seq, void *out, size_t size);
size_t sl_seq_state_set(void *context, int seq, const void *in, size_t size);

// A tap takes the rows of one tensor of a pass, and ends the pass there.
typedef struct {
	char name[64];
	int64_t width;
	float *rows; // room for limit of them
	int64_t limit, got;
	bool bad; // the tensor had another shape than [width, rows]
} sl_tap;

sl_tap *sl_tap_new(const char *name, int64_t width, int64_t limit);
void sl_tap_free(sl_tap *tap);

// sl_run makes a pass of n rows. tokens or hidden is NULL; hidden has stride numbers
// per row. positions has one number per row, of which a model may want several. The
// result is the library's.
int sl_run(void *context, bool encode, int n, const int32_t *tokens, const float *hidden, int64_t stride,
	const int32_t *positions, int per_row, const int32_t *seqs, const int8_t *outputs);

// sl_numbers turns a row of width numbers of a type, whose blocks have so many numbers, into
// floats. It returns false if the library does not know the type as that; without an input
// it does nothing else.
bool sl_numbers(int type, int64_t block, size_t bytes, int64_t width, const void *in, float *out);

const float *sl_logits(void *context, int row);
const float *sl_embedding(void *context, int seq);

#endif
