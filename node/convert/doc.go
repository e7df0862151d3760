// Package convert turns a Hugging Face directory into a GGUF file. The
// directory has config.json, tokenizer.json (or tokenizer.model), and
// *.safetensors: one file, or several with model.safetensors.index.json.
//
//	look     config, safetensors headers, tokenizer: everything that can be refused is, before a byte is written
//	convert  the library (github.com/ollama/ollama/convert) writes all tensors, in their own types, to a temporary file
//	check    can the model be computed, are all tensors there, do their shapes match the config
//	write    the final file: metadata corrected, tensors quantized a few rows at a time
//
// Numbers are rounded once: matrices are quantized from the numbers of the
// directory, F32 and BF16 alike, and the bytes of q8_0 are those that PyPI's gguf
// makes; without a quantization matrices keep their type. For this the library gets
// tensors of our own (tensor.go): its own would be F16 wherever they were F32.
//
// What the library gets wrong or leaves out is corrected on the way: Qwen3,
// which it converts only as part of Qwen3-VL; user-defined pieces of a
// tokenizer.model, and what it does with spaces; rope parameters in the form of
// newer configs; how tokenizer.json splits words, and which tokens it puts
// around a text. What cannot be corrected is refused: a tokenizer whose ids
// differ from those of tokenizer.json or tokenizer.model is worse than none.
//
// The result depends only on the directory's content, not on its name or the
// time. So it has the same CID whoever converts it, if the programs have the
// same version and the processors round alike. During a conversion it takes up
// to twice its size on disk: a temporary file and the final one.
package convert
