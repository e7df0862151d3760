#include "shim.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Parameters of a model, which pass by value in memory: at least as large as those of
// any version of the library.
typedef struct {
	_Alignas(16) unsigned char bytes[512];
} params;

// The beginning of a tensor.
typedef struct {
	int32_t type;
	void *buffer;
	int64_t shape[4];
} tensor;

// How a header is read.
typedef struct {
	bool no_data;
	void **context;
} init;

typedef void (*set_fn)(tensor *, void *);
typedef void (*log_fn)(int, const char *, void *);

// A batch of rows, as the library takes it by value.
typedef struct {
	int32_t n;
	int32_t *tokens;
	float *hidden;
	int32_t *positions, *seq_counts, **seqs;
	int8_t *outputs;
} batch;

static struct {
	params (*defaults)(void);
	void *(*from_user)(void *, set_fn, void *, params);
	void (*model_free)(void *);
	void *(*header)(const char *, init);
	void (*header_free)(void *);
	const char *(*name)(const tensor *);
	void (*log_get)(log_fn *, void **);
	void (*log_set)(log_fn, void *);
	void (*backends)(const char *);
	void (*begin)(void);
	void (*threads)(void *, int32_t, int32_t);
	void *(*load)(const char *, params);
	params (*context_defaults)(void);
	void *(*context)(void *, params);
	void (*context_free)(void *);
	batch (*one)(int32_t *, int32_t);
	int32_t (*decode)(void *, batch);
	const float *(*logits)(void *, int32_t);
	const void *(*vocab)(void *);
	int32_t (*tokens)(const void *);
	void (*embeddings)(void *, bool);
	const float *(*embedding)(void *, int32_t);
} lib;

static void ignore(int level, const char *text, void *user) {}

const char *random_open(const char *dir, const char *base, const char *ggml, const char *llama) {
	void *b = dlopen(base, RTLD_NOW), *g = dlopen(ggml, RTLD_NOW), *l = dlopen(llama, RTLD_NOW);
	if (!b || !g || !l)
		return dlerror();
#define FIND(field, from, symbol) \
	if (!(*(void **)&lib.field = dlsym(from, #symbol))) \
		return #symbol " is not there";
	FIND(defaults, l, llama_model_default_params)
	FIND(from_user, l, llama_model_init_from_user)
	FIND(model_free, l, llama_model_free)
	FIND(header, b, gguf_init_from_file)
	FIND(header_free, b, gguf_free)
	FIND(name, b, ggml_get_name)
	FIND(log_get, l, llama_log_get)
	FIND(log_set, l, llama_log_set)
	FIND(backends, g, ggml_backend_load_all_from_path)
	FIND(begin, l, llama_backend_init)
	FIND(threads, l, llama_set_n_threads)
	FIND(load, l, llama_model_load_from_file)
	FIND(context_defaults, l, llama_context_default_params)
	FIND(context, l, llama_init_from_model)
	FIND(context_free, l, llama_free)
	FIND(one, l, llama_batch_get_one)
	FIND(decode, l, llama_decode)
	FIND(logits, l, llama_get_logits_ith)
	FIND(vocab, l, llama_model_get_vocab)
	FIND(tokens, l, llama_vocab_n_tokens)
	FIND(embeddings, l, llama_set_embeddings)
	FIND(embedding, l, llama_get_embeddings_seq)
	lib.begin();
	log_fn log;
	void *user;
	lib.log_get(&log, &user);
	lib.log_set(ignore, NULL);
	lib.backends(dir);
	lib.log_set(log, user);
	return NULL;
}

static void note(tensor *t, void *user) {
	random_list *out = user;
	if (out->n == RANDOM_TENSORS)
		return;
	random_tensor *x = &out->tensors[out->n++];
	snprintf(x->name, sizeof x->name, "%s", lib.name(t));
	x->type = t->type;
	memcpy(x->shape, t->shape, sizeof x->shape);
}

static void hear(int level, const char *text, void *user) {
	random_list *out = user;
	size_t used = strlen(out->error);
	if (level == 4) // an error
		snprintf(out->error + used, sizeof out->error - used, "%s", text);
}

void random_tensors(const char *path, random_list *out) {
	log_fn log;
	void *user;
	lib.log_get(&log, &user);
	lib.log_set(hear, out);
	void *header = lib.header(path, (init){true, NULL});
	void *model = header ? lib.from_user(header, note, out, lib.defaults()) : NULL;
	lib.log_set(log, user);
	out->ok = model;
	if (model)
		lib.model_free(model);
	if (header)
		lib.header_free(header);
}

static bool answer(void *context, int vocab, const int32_t *prompt, int length, bool every, int32_t *out, int n) {
	int32_t *rows = malloc(length * sizeof *rows);
	memcpy(rows, prompt, length * sizeof *rows);
	batch b = lib.one(rows, length);
	if (every) {
		b.outputs = malloc(length);
		memset(b.outputs, 1, length);
	}
	bool ok = lib.decode(context, b) == 0;
	free(rows);
	free(b.outputs);
	for (int i = 0; i < n && ok; i++) {
		const float *logits = lib.logits(context, -1);
		for (int k = out[i] = 0; k < vocab; k++)
			if (logits[k] > logits[out[i]])
				out[i] = k;
		int32_t token = out[i];
		ok = lib.decode(context, lib.one(&token, 1)) == 0;
	}
	return ok;
}

// whole has the library load a model, and do something with a context of it, which has
// room for so many cells and so many rows per call.
static bool whole(const char *path, uint32_t cells, uint32_t rows, bool (*what)(void *model, void *context, void *of), void *of) {
	log_fn log;
	void *user;
	lib.log_get(&log, &user);
	lib.log_set(ignore, NULL);
	void *model = lib.load(path, lib.defaults());
	params settings = lib.context_defaults();
	uint32_t room[3] = {cells, rows, rows}; // the first three fields; encoders need a text in one piece
	memcpy(&settings, room, sizeof room);
	void *context = model ? lib.context(model, settings) : NULL;
	if (context)
		lib.threads(context, 1, 1); // several would wait for each other on a busy machine
	bool ok = context && what(model, context, of);
	if (context)
		lib.context_free(context);
	if (model)
		lib.model_free(model);
	lib.log_set(log, user);
	return ok;
}

typedef struct {
	const int32_t *prompt;
	int length, n;
	bool every;
	int32_t *out;
} question;

static bool ask(void *model, void *context, void *of) {
	question *q = of;
	return answer(context, lib.tokens(lib.vocab(model)), q->prompt, q->length, q->every, q->out, q->n);
}

bool random_answer(const char *path, const int32_t *prompt, int length, bool every, int32_t *out, int n) {
	return whole(path, length + n, length, ask, &(question){prompt, length, n, every, out});
}

typedef struct {
	const int32_t *text;
	int length, n;
	float *out;
} passage;

static bool embed(void *model, void *context, void *of) {
	passage *p = of;
	lib.embeddings(context, true);
	int32_t *rows = malloc(p->length * sizeof *rows);
	memcpy(rows, p->text, p->length * sizeof *rows);
	bool ok = lib.decode(context, lib.one(rows, p->length)) == 0;
	free(rows);
	const float *e = ok ? lib.embedding(context, 0) : NULL;
	if (e)
		memcpy(p->out, e, p->n * sizeof *e);
	return e;
}

bool random_embed(const char *path, const int32_t *text, int length, float *out, int n) {
	return whole(path, length, length, embed, &(passage){text, length, n, out});
}
