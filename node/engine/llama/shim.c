#include "shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#include <windows.h>
static void *open_file(const char *path) {
	wchar_t wide[4096];
	if (!MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, sizeof wide / sizeof *wide))
		return NULL;
	return (void *)LoadLibraryExW(wide, NULL, LOAD_WITH_ALTERED_SEARCH_PATH);
}
static void *symbol(void *lib, const char *name) { return lib ? (void *)GetProcAddress((HMODULE)lib, name) : NULL; }
static const char *why(void) {
	static char text[64];
	snprintf(text, sizeof text, "Windows error %lu", (unsigned long)GetLastError());
	return text;
}
#else
#include <dlfcn.h>
static void *open_file(const char *path) { return dlopen(path, RTLD_NOW | RTLD_LOCAL); }
static void *symbol(void *lib, const char *name) { return lib ? dlsym(lib, name) : NULL; }
static const char *why(void) {
	const char *text = dlerror();
	return text ? text : "unknown error";
}
#endif

// A batch of rows, as the library takes it by value.
typedef struct {
	int32_t n;
	int32_t *tokens;
	float *hidden;
	int32_t *positions;
	int32_t *seq_counts;
	int32_t **seqs;
	int8_t *outputs;
} batch;

// What the library knows of a type of numbers.
typedef struct {
	const char *name;
	int64_t block, interleaved;
	size_t bytes; // per block
	bool quantized;
	void (*to_float)(const void *in, float *out, int64_t n);
} traits;

// How a pool's threads are made; there is room for what later versions may add.
typedef struct {
	bool cores[512]; // none set: any
	int32_t threads, priority;
	uint32_t poll; // how long threads spin before they sleep
	bool strict, paused;
	uint8_t more[64];
} pool_params;

typedef bool (*eval_fn)(void *tensor, bool ask, void *user);
typedef void (*log_fn)(int level, const char *text, void *user);

// Every function that is called. Those that a known version may lack are marked by MAY.
#define FUNCTIONS(MUST, MAY) \
	MAY(const char *, llama_version, (void)) \
	MAY(const char *, ggml_version, (void)) \
	MUST(void, llama_log_set, (log_fn, void *)) \
	MUST(void, ggml_log_set, (log_fn, void *)) \
	MUST(void, llama_backend_init, (void)) \
	MUST(void, ggml_backend_load_all_from_path, (const char *)) \
	MUST(size_t, ggml_backend_dev_count, (void)) \
	MUST(void *, ggml_backend_dev_get, (size_t)) \
	MUST(const char *, ggml_backend_dev_name, (void *)) \
	MUST(int, ggml_backend_dev_type, (void *)) \
	MUST(void, ggml_backend_dev_memory, (void *, size_t *, size_t *)) \
	MUST(void *, ggml_backend_dev_backend_reg, (void *)) \
	MUST(const char *, ggml_backend_reg_name, (void *)) \
	MAY(void *, ggml_backend_reg_get_proc_address, (void *, const char *)) \
	MAY(void, ggml_threadpool_params_init, (pool_params *, int)) \
	MAY(void, llama_attach_threadpool, (void *, void *, void *)) \
	MAY(const traits *, ggml_get_type_traits, (int)) \
	MUST(const char *, ggml_get_name, (const void *)) \
	MUST(int64_t, ggml_nelements, (const void *)) \
	MUST(size_t, ggml_nbytes, (const void *)) \
	MUST(void, ggml_backend_tensor_get, (const void *, void *, size_t, size_t)) \
	MUST(sl_params, llama_model_default_params, (void)) \
	MUST(sl_params, llama_context_default_params, (void)) \
	MUST(void *, llama_model_load_from_file, (const char *, sl_params)) \
	MUST(void, llama_model_free, (void *)) \
	MUST(int32_t, llama_model_n_layer, (const void *)) \
	MUST(int32_t, llama_model_n_embd, (const void *)) \
	MUST(int32_t, llama_model_n_embd_inp, (const void *)) \
	MUST(int, llama_model_rope_type, (const void *)) \
	MUST(const void *, llama_model_get_vocab, (const void *)) \
	MUST(int32_t, llama_vocab_n_tokens, (const void *)) \
	MUST(bool, llama_model_is_recurrent, (const void *)) \
	MUST(bool, llama_model_is_hybrid, (const void *)) \
	MUST(bool, llama_model_has_encoder, (const void *)) \
	MUST(bool, llama_model_has_decoder, (const void *)) \
	MUST(uint64_t, llama_model_size, (const void *)) \
	MUST(int32_t, llama_model_meta_val_str, (const void *, const char *, char *, size_t)) \
	MUST(void *, llama_adapter_lora_init, (void *, const char *)) \
	MUST(int32_t, llama_set_adapters_lora, (void *, void **, size_t, float *)) \
	MUST(void *, llama_init_from_model, (void *, sl_params)) \
	MUST(void, llama_free, (void *)) \
	MUST(void, llama_set_n_threads, (void *, int32_t, int32_t)) \
	MUST(void *, llama_get_memory, (const void *)) \
	MUST(bool, llama_memory_seq_rm, (void *, int32_t, int32_t, int32_t)) \
	MUST(void, llama_memory_seq_cp, (void *, int32_t, int32_t, int32_t, int32_t)) \
	MUST(size_t, llama_state_get_size, (void *)) \
	MUST(size_t, llama_state_get_data, (void *, uint8_t *, size_t)) \
	MUST(size_t, llama_state_set_data, (void *, const uint8_t *, size_t)) \
	MUST(size_t, llama_state_seq_get_size_ext, (void *, int32_t, uint32_t)) \
	MUST(size_t, llama_state_seq_get_data_ext, (void *, uint8_t *, size_t, int32_t, uint32_t)) \
	MUST(size_t, llama_state_seq_set_data_ext, (void *, const uint8_t *, size_t, int32_t, uint32_t)) \
	MUST(int32_t, llama_decode, (void *, batch)) \
	MUST(int32_t, llama_encode, (void *, batch)) \
	MUST(float *, llama_get_logits_ith, (void *, int32_t)) \
	MUST(float *, llama_get_embeddings_seq, (void *, int32_t))

#define DECLARE(type, name, args) static type(*p_##name) args;
FUNCTIONS(DECLARE, DECLARE)

static const char *lacks;
const char *sl_lacks(void) { return lacks; }

const char *sl_open(const char *base, const char *ggml, const char *llama) {
	const char *paths[3] = {base, ggml, llama};
	void *libs[3] = {NULL, NULL, NULL};
	static char text[1024];
	for (int i = 0; i < 3; i++) {
		if (*paths[i] && !(libs[i] = open_file(paths[i]))) {
			snprintf(text, sizeof text, "opening %s: %s", paths[i], why());
			return text;
		}
	}
	void *found;
#define LOOK(name) \
	found = NULL; \
	for (int i = 2; i >= 0 && !found; i--) \
		found = symbol(libs[i], #name); \
	*(void **)&p_##name = found;
#define MUST(type, name, args) \
	LOOK(name) if (!found && !lacks) lacks = #name;
#define MAY(type, name, args) LOOK(name)
	FUNCTIONS(MUST, MAY)
	return NULL;
}

const char *sl_version(void) { return p_llama_version ? p_llama_version() : NULL; }
const char *sl_ggml_version(void) { return p_ggml_version ? p_ggml_version() : NULL; }

extern void shoalLlamaLog(int level, char *text); // in Go
static void to_go(int level, const char *text, void *user) { shoalLlamaLog(level, (char *)text); }

void sl_log_to_go(void) {
	p_llama_log_set(to_go, NULL);
	p_ggml_log_set(to_go, NULL);
}

void sl_backends(const char *dir) {
	if (p_ggml_backend_dev_count() == 0) // else they are compiled in
		p_ggml_backend_load_all_from_path(dir);
	p_llama_backend_init();
}

// size_of calls a function that returns a struct of unknown size twice, over memory
// of different contents: what then differs lies behind the struct, or is padding.
static int size_of(void *function, sl_params *out) {
#if defined(__x86_64__) || defined(_M_X64)
	sl_params other;
	void (*call)(void *) = (void (*)(void *))function; // the result's address is the first argument
	memset(out, 0xaa, sizeof *out);
	memset(&other, 0x55, sizeof other);
	call(out);
	call(&other);
	int n = SL_PARAMS;
	while (n > 0 && out->bytes[n - 1] != other.bytes[n - 1])
		n--;
	return n;
#else
	return 0;
#endif
}

int sl_model_defaults(sl_params *out) {
	int n = size_of((void *)p_llama_model_default_params, out);
	*out = p_llama_model_default_params();
	return n;
}

int sl_context_defaults(sl_params *out) {
	int n = size_of((void *)p_llama_context_default_params, out);
	*out = p_llama_context_default_params();
	return n;
}

void *sl_no_devices(void) {
	static void *none[1] = {NULL};
	return none;
}

int sl_device_count(void) { return (int)p_ggml_backend_dev_count(); }
void *sl_device(int i) { return p_ggml_backend_dev_get((size_t)i); }
const char *sl_device_name(void *device) { return p_ggml_backend_dev_name(device); }
const char *sl_device_library(void *device) { return p_ggml_backend_reg_name(p_ggml_backend_dev_backend_reg(device)); }
int sl_device_type(void *device) { return p_ggml_backend_dev_type(device); }
void sl_device_memory(void *device, size_t *free, size_t *total) { p_ggml_backend_dev_memory(device, free, total); }

void *sl_model_load(const char *path, const sl_params *params) { return p_llama_model_load_from_file(path, *params); }
void sl_model_free(void *model) { p_llama_model_free(model); }
int sl_model_blocks(void *model) { return p_llama_model_n_layer(model); }
int sl_model_width(void *model) { return p_llama_model_n_embd(model); }
int sl_model_width_in(void *model) { return p_llama_model_n_embd_inp(model); }
int sl_model_vocab(void *model) { return p_llama_vocab_n_tokens(p_llama_model_get_vocab(model)); }
int sl_model_rope(void *model) { return p_llama_model_rope_type(model); }
bool sl_model_recurrent(void *model) { return p_llama_model_is_recurrent(model) || p_llama_model_is_hybrid(model); }
bool sl_model_encodes(void *model) { return p_llama_model_has_encoder(model); }
bool sl_model_decodes(void *model) { return p_llama_model_has_decoder(model); }
uint64_t sl_model_bytes(void *model) { return p_llama_model_size(model); }
int sl_model_text(void *model, const char *key, char *out, size_t size) { return p_llama_model_meta_val_str(model, key, out, size); }

// processor finds a function of the library's part for this processor.
static void *processor(const char *name) {
	enum { CPU = 0 };
	for (int i = 0; p_ggml_backend_reg_get_proc_address && i < sl_device_count(); i++)
		if (sl_device_type(sl_device(i)) == CPU)
			return p_ggml_backend_reg_get_proc_address(p_ggml_backend_dev_backend_reg(sl_device(i)), name);
	return NULL;
}

void *sl_pool(int threads) {
	void *(*make)(pool_params *);
	*(void **)&make = processor("ggml_threadpool_new");
	if (!make || !p_ggml_threadpool_params_init || !p_llama_attach_threadpool || !processor("ggml_threadpool_free"))
		return NULL;
	pool_params p = {.threads = -1};
	p_ggml_threadpool_params_init(&p, threads);
	if (p.threads != threads || p.poll > 100 || p.strict || p.paused) // another version's fields
		return NULL;
	p.poll = 0;
	return make(&p);
}

void sl_pool_free(void *pool) {
	void (*done)(void *);
	*(void **)&done = processor("ggml_threadpool_free");
	if (pool)
		done(pool);
}

void sl_context_pool(void *context, void *pool) { p_llama_attach_threadpool(context, pool, pool); }

void *sl_adapter(void *model, const char *path) { return p_llama_adapter_lora_init(model, path); }

void *sl_context(void *model, const sl_params *params) { return p_llama_init_from_model(model, *params); }
void sl_context_free(void *context) { p_llama_free(context); }

#ifdef __linux__
// Not in every C library.
extern int malloc_trim(size_t pad) __attribute__((weak));
extern int mallopt(int param, int value) __attribute__((weak));

// sl_frugal has large blocks go back to the system as soon as they are freed. glibc would
// keep those of a cache that has moved, since it takes a size that was freed once for one
// that is asked for again.
void sl_frugal(void) {
	enum { MMAP_THRESHOLD = -3, ARENA_MAX = -8 };
	if (mallopt) {
		mallopt(MMAP_THRESHOLD, 256 << 10);
		mallopt(ARENA_MAX, 2);
	}
}
void sl_trim(void) {
	if (malloc_trim)
		malloc_trim(0);
}
#else
void sl_frugal(void) {}
void sl_trim(void) {}
#endif

int sl_context_adapt(void *context, void **adapters, int n) {
	float *scales = malloc(n * sizeof *scales);
	if (!scales)
		return -1;
	for (int i = 0; i < n; i++)
		scales[i] = 1;
	int failed = p_llama_set_adapters_lora(context, adapters, n, scales);
	free(scales);
	return failed;
}
bool sl_context_remembers(void *context) { return p_llama_get_memory(context) != NULL; }
void sl_context_threads(void *context, int one, int many) { p_llama_set_n_threads(context, one, many); }

bool sl_remove(void *context, int seq, int from) { return p_llama_memory_seq_rm(p_llama_get_memory(context), seq, from, -1); }
void sl_copy(void *context, int from, int to, int n) { p_llama_memory_seq_cp(p_llama_get_memory(context), from, to, 0, n); }
size_t sl_state_size(void *context) { return p_llama_state_get_size(context); }
size_t sl_state_get(void *context, void *out, size_t size) { return p_llama_state_get_data(context, out, size); }
size_t sl_state_set(void *context, const void *in, size_t size) { return p_llama_state_set_data(context, in, size); }
// only what is not in cells of positions
enum { PARTIAL = 1 };
size_t sl_seq_state_size(void *context, int seq) { return p_llama_state_seq_get_size_ext(context, seq, PARTIAL); }
size_t sl_seq_state_get(void *context, int seq, void *out, size_t size) { return p_llama_state_seq_get_data_ext(context, out, size, seq, PARTIAL); }
size_t sl_seq_state_set(void *context, int seq, const void *in, size_t size) { return p_llama_state_seq_set_data_ext(context, in, size, seq, PARTIAL); }

sl_tap *sl_tap_new(const char *name, int64_t width, int64_t limit) {
	sl_tap *tap = calloc(1, sizeof *tap);
	if (!tap)
		return NULL;
	snprintf(tap->name, sizeof tap->name, "%s", name);
	tap->width = width;
	tap->limit = limit;
	if (!(tap->rows = malloc(width * limit * sizeof *tap->rows))) {
		free(tap);
		return NULL;
	}
	return tap;
}

void sl_tap_free(sl_tap *tap) {
	if (tap)
		free(tap->rows);
	free(tap);
}

// eval is asked before a node is computed whether it is wanted, and is called after
// it was. False ends the pass: what would follow are logits that nobody reads.
static bool eval(void *tensor, bool ask, void *user) {
	sl_tap *tap = user;
	bool hit = !strcmp(p_ggml_get_name(tensor), tap->name);
	if (ask || !hit)
		return hit;
	int64_t n = p_ggml_nelements(tensor), rows = n / tap->width;
	size_t bytes = (size_t)n * sizeof *tap->rows;
	if (n % tap->width || tap->got + rows > tap->limit || p_ggml_nbytes(tensor) != bytes) {
		tap->bad = true;
		return false;
	}
	p_ggml_backend_tensor_get(tensor, tap->rows + tap->got * tap->width, 0, bytes);
	tap->got += rows;
	return false;
}

void *sl_eval_callback(void) { return (void *)eval; }

int sl_run(void *context, bool encode, int n, const int32_t *tokens, const float *hidden, int64_t stride,
	const int32_t *positions, int per_row, const int32_t *seqs, const int8_t *outputs) {
	batch b = {.n = n, .tokens = (int32_t *)tokens, .hidden = (float *)hidden, .outputs = (int8_t *)outputs};
	int32_t *counts = malloc(n * sizeof *counts), *at = malloc((size_t)n * per_row * sizeof *at);
	int32_t **lists = malloc((n + 1) * sizeof *lists);
	int result = -100;
	if (counts && at && lists) {
		for (int i = 0; i < n; i++) {
			counts[i] = 1;
			lists[i] = (int32_t *)&seqs[i];
			for (int j = 0; j < per_row; j++) // text is at the same place in three dimensions, and nowhere in the fourth
				at[(size_t)j * n + i] = j < 3 ? positions[i] : 0;
		}
		lists[n] = NULL;
		b.positions = at;
		b.seq_counts = counts;
		b.seqs = lists;
		result = encode ? p_llama_encode(context, b) : p_llama_decode(context, b);
	}
	free(counts);
	free(at);
	free(lists);
	return result;
}

bool sl_numbers(int type, int64_t block, size_t bytes, int64_t width, const void *in, float *out) {
	enum { F32 = 0 };
	const traits *t = type >= 0 && p_ggml_get_type_traits ? p_ggml_get_type_traits(type) : NULL;
	if (!t || t->block != block || t->bytes * (size_t)(width / block) != bytes || width % block || (!t->to_float && type != F32))
		return false;
	if (in && type == F32)
		memcpy(out, in, bytes);
	else if (in)
		t->to_float(in, out, width);
	return true;
}

const float *sl_logits(void *context, int row) { return p_llama_get_logits_ith(context, row); }
const float *sl_embedding(void *context, int seq) { return p_llama_get_embeddings_seq(context, seq); }
