package ggml

import (
	"fmt"
	"math"
	"reflect"
	"unsafe"

	"github.com/ollama/ollama/fs"
	"github.com/ollama/ollama/kvcache"
	"github.com/ollama/ollama/ml"
	"github.com/ollama/ollama/ml/nn"
	"github.com/ollama/ollama/model"
	"github.com/ollama/ollama/model/models/deepseek2"
	"github.com/ollama/ollama/model/models/gemma2"
	"github.com/ollama/ollama/model/models/gemma3"
	"github.com/ollama/ollama/model/models/gptoss"
	"github.com/ollama/ollama/model/models/llama"
	"github.com/ollama/ollama/model/models/mistral3"
	"github.com/ollama/ollama/model/models/olmo3"
	"github.com/ollama/ollama/model/models/qwen2"
	"github.com/ollama/ollama/model/models/qwen3"

	"github.com/shoalnet/shoal/node/engine"
)

// step is what a block needs to know of a pass besides the hidden state.
type step struct {
	positions ml.Tensor // [rows]
	pos       []int32
	outputs   ml.Tensor // rows to keep after the last block; nil: all
	extra     ml.Tensor // mistral3: the queries' scale
}

// arch runs one architecture's parts.
type arch struct {
	embedding *nn.Embedding
	scale     float64 // of embeddings; 0: none
	norm      *nn.RMSNorm
	output    *nn.Linear
	eps       float32
	softcap   float64 // of the final logits; 0: none
	cache     kvcache.Cache
	blocks    int
	prepare   func(ctx ml.Context, s *step) // may be nil
	block     func(ctx ml.Context, i int, h ml.Tensor, s *step) ml.Tensor
}

// Kinds of layer in a wrapper cache.
const (
	nearby     = 0 // sliding window
	everywhere = 1
)

// windowed makes a cache for models that alternate between a sliding window
// of w tokens, the current one included, and full attention. It remembers extra
// tokens more than the window, so that so many can be taken back.
func windowed(w, extra int32) *kvcache.WrapperCache {
	if w <= 0 || w > math.MaxInt32-extra { // none, or one that no context fills
		return kvcache.NewWrapperCache(everything(), everything())
	}
	return kvcache.NewWrapperCache(newPages(w-1, w-1+extra), everything())
}

// everything is a cache of full attention.
func everything() *pages { return newPages(math.MaxInt32, math.MaxInt32) }

// caches lists the caches that an architecture's cache is made of.
func (a *arch) caches() []*pages {
	switch c := a.cache.(type) {
	case *pages:
		return []*pages{c}
	case *kvcache.WrapperCache:
		var out []*pages
		for _, kind := range []int{nearby, everywhere} {
			c.SetLayerType(kind)
			if p, ok := c.UnderlyingCache().(*pages); ok {
				out = append(out, p)
			}
		}
		return out
	}
	return nil
}

// adapt finds the parts of a loaded model.
func adapt(m model.Model, c fs.Config, maxBatch int) (*arch, error) {
	a := &arch{eps: c.Float("attention.layer_norm_rms_epsilon", 1e-6), blocks: int(c.Uint("block_count"))}
	window, extra := int32(c.Uint("attention.sliding_window")), int32(engine.WindowMemory(maxBatch))
	swaps := func(i int, isLocal bool) { // SetLayer and SetLayerType
		a.cache.SetLayer(i)
		kind := everywhere
		if isLocal {
			kind = nearby
		}
		a.cache.(*kvcache.WrapperCache).SetLayerType(kind)
	}
	switch m := m.(type) {
	case *llama.Model:
		a.embedding, a.norm, a.output, a.cache = m.TokenEmbedding, m.OutputNorm, m.Output, everything()
		a.block = func(ctx ml.Context, i int, h ml.Tensor, s *step) ml.Tensor {
			a.cache.SetLayer(i)
			return m.Layers[i].Forward(ctx, h, s.positions, s.outputs, a.cache, &m.Options)
		}
	case *qwen2.Model:
		a.embedding, a.norm, a.output, a.cache = m.TokenEmbedding, m.OutputNorm, m.Output, everything()
		a.block = func(ctx ml.Context, i int, h ml.Tensor, s *step) ml.Tensor {
			a.cache.SetLayer(i)
			return m.Layers[i].Forward(ctx, h, s.positions, s.outputs, a.cache, &m.Options)
		}
	case *qwen3.Model:
		a.embedding, a.norm, a.output, a.cache = m.TokenEmbedding, m.OutputNorm, m.Output, everything()
		a.block = func(ctx ml.Context, i int, h ml.Tensor, s *step) ml.Tensor {
			a.cache.SetLayer(i)
			return m.Layers[i].Forward(ctx, h, s.positions, s.outputs, a.cache, m.Options)
		}
	case *deepseek2.Model:
		a.embedding, a.norm, a.output, a.cache = m.TokenEmbedding, m.OutputNorm, m.Output, everything()
		if n := c.Uint("attention.key_length_mla"); n > 0 {
			// The library scales by the length of the latent key, where the
			// model was trained with the length of a head's key.
			scale, err := hidden[float64](m.Options, "kqScale")
			if err != nil {
				return nil, err
			}
			*scale *= math.Sqrt(float64(c.Uint("attention.key_length")) / float64(n))
		}
		a.block = func(ctx ml.Context, i int, h ml.Tensor, s *step) ml.Tensor {
			a.cache.SetLayer(i)
			return m.Layers[i].Forward(ctx, h, s.positions, s.outputs, a.cache, m.Options)
		}
	case *gemma2.Model:
		a.embedding, a.norm, a.output = m.TokenEmbedding, m.OutputNorm, m.Output
		a.scale = math.Sqrt(float64(c.Uint("embedding_length")))
		a.softcap = float64(c.Float("final_logit_softcapping"))
		w := windowed(window, extra)
		w.SetConfig(ml.CacheConfig{}) // its attention is written out and wants plain tensors
		a.cache = w
		if a.blocks == 46 { // the 27B model scales queries by another length
			large, err := hidden[bool](m.Options, "largeModelScaling")
			if err != nil {
				return nil, err
			}
			*large = true
		}
		a.block = func(ctx ml.Context, i int, h ml.Tensor, s *step) ml.Tensor {
			swaps(i, i%2 == 0)
			return m.Layers[i].Forward(ctx, h, s.positions, s.outputs, a.cache, m.Options)
		}
	case *gemma3.Model:
		t := m.TextModel
		a.embedding, a.norm, a.output = t.TokenEmbedding, t.OutputNorm, t.Output
		a.scale = math.Sqrt(float64(c.Uint("embedding_length")))
		if a.blocks != 26 || uint32(window) >= c.Uint("context_length") { // the 1B files name a cap that the model has not
			a.softcap = float64(c.Float("final_logit_softcapping"))
		}
		a.cache = windowed(window, extra)
		a.block = func(ctx ml.Context, i int, h ml.Tensor, s *step) ml.Tensor {
			swaps(i, (i+1)%6 != 0)
			return t.Layers[i].Forward(ctx, i, h, s.positions, s.outputs, a.cache, t.TextConfig)
		}
	case *mistral3.Model:
		t := m.TextModel
		a.embedding, a.norm, a.output, a.cache = t.TokenEmbedding, t.OutputNorm, t.Output, everything()
		original, beta := float64(c.Uint("rope.scaling.original_context_length")), float64(c.Float("rope.scaling_beta", 0.1))
		a.prepare = func(ctx ml.Context, s *step) {
			scale := make([]float32, len(s.pos))
			for i, p := range s.pos {
				scale[i] = 1
				if original > 0 {
					scale[i] = float32(1 + beta*math.Log(1+math.Floor(float64(p)/original)))
				}
			}
			s.extra = ctx.Input().FromFloats(scale, 1, 1, len(scale))
		}
		a.block = func(ctx ml.Context, i int, h ml.Tensor, s *step) ml.Tensor {
			a.cache.SetLayer(i)
			return t.Layers[i].Forward(ctx, h, s.positions, s.extra, s.outputs, a.cache, t.TextOptions)
		}
	case *gptoss.Transformer:
		a.embedding, a.norm, a.output = m.TokenEmbedding, m.OutputNorm, m.Output
		a.cache = windowed(window, extra)
		a.block = func(ctx ml.Context, i int, h ml.Tensor, s *step) ml.Tensor {
			swaps(i, i%2 == 0)
			return m.TransformerBlocks[i].Forward(ctx, h, s.positions, s.outputs, a.cache, &m.Options)
		}
	case *olmo3.Model:
		a.embedding, a.norm, a.output = m.TokenEmbedding, m.OutputNorm, m.Output
		a.cache = windowed(window, extra)
		pattern := c.Bools("attention.sliding_window_pattern")
		if len(pattern) != a.blocks {
			return nil, fmt.Errorf("%w: olmo3 with a sliding window pattern of %d for %d blocks", engine.ErrUnsupported, len(pattern), a.blocks)
		}
		a.block = func(ctx ml.Context, i int, h ml.Tensor, s *step) ml.Tensor {
			swaps(i, pattern[i])
			return m.Layers[i].Forward(ctx, h, s.positions, s.outputs, a.cache, m, pattern[i])
		}
	default:
		return nil, fmt.Errorf("%w: the library's %T", engine.ErrUnsupported, m)
	}
	return a, nil
}

// embed looks tokens up.
func (a *arch) embed(ctx ml.Context, ids []int32) ml.Tensor {
	h := a.embedding.Forward(ctx, ctx.Input().FromInts(ids, len(ids)))
	if a.scale != 0 {
		h = h.Scale(ctx, a.scale)
	}
	return h
}

// head gives logits, [vocab, rows].
func (a *arch) head(ctx ml.Context, h ml.Tensor) ml.Tensor {
	h = a.output.Forward(ctx, a.norm.Forward(ctx, h, a.eps))
	if a.softcap > 0 {
		h = h.Scale(ctx, 1/a.softcap).Tanh(ctx).Scale(ctx, a.softcap)
	}
	return h
}

// hidden finds an unexported field of the library's options, to set what the
// library's own Forward would, which is not called here, or what it gets wrong.
func hidden[T any](options any, name string) (*T, error) {
	f := reflect.ValueOf(options).Elem().FieldByName(name)
	if !f.IsValid() || f.Type() != reflect.TypeFor[T]() {
		return nil, fmt.Errorf("engine: the library's options have no %T %s", *new(T), name)
	}
	return (*T)(unsafe.Pointer(f.UnsafeAddr())), nil
}
