// Package convert makes a GGUF file of a Hugging Face directory: config.json,
// tokenizer.json (or tokenizer.model), and *.safetensors, in one file or in
// several with model.safetensors.index.json.
//
//	look     config, safetensors' headers, tokenizer: what can be refused is, before a byte is written
//	convert  the library (github.com/ollama/ollama/convert) writes all tensors, as F32, F16 or BF16, to a temporary file
//	check    is it a model that can be computed, are all tensors there, have they the shapes that the config tells
//	write    the final file: metadata mended, tensors quantized a few rows at a time
//
// What the library gets wrong or leaves out is mended on the way: Qwen3, which
// it converts only as a part of Qwen3-VL; rope parameters as newer configs
// write them; how tokenizer.json splits words, and which tokens it puts around
// a text. What cannot be mended is refused: a tokenizer that would give other
// ids than tokenizer.json does is worse than none.
//
// The result depends on the directory's content alone, not on its name, nor on
// the time, so it has the same CID whoever converts it, as long as the program
// is of the same version and the processors round alike. It is held on disk
// twice at most while it is made: in the temporary file and in the final one.
package convert
