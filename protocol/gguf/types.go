package gguf

import (
	"slices"
	"strconv"
)

// Type is a tensor's number format, in ggml's numbering (ggml.h, enum ggml_type).
type Type uint32

type typeInfo struct {
	name        string
	block, size uint64 // weights per block, bytes per block
}

var types = map[Type]typeInfo{
	0: {"F32", 1, 4}, 1: {"F16", 1, 2}, 2: {"Q4_0", 32, 18}, 3: {"Q4_1", 32, 20},
	4: {"MXFP4", 32, 17}, // older gpt-oss files of Ollama
	6: {"Q5_0", 32, 22}, 7: {"Q5_1", 32, 24}, 8: {"Q8_0", 32, 34}, 9: {"Q8_1", 32, 36},
	10: {"Q2_K", 256, 84}, 11: {"Q3_K", 256, 110}, 12: {"Q4_K", 256, 144}, 13: {"Q5_K", 256, 176},
	14: {"Q6_K", 256, 210}, 15: {"Q8_K", 256, 292}, 16: {"IQ2_XXS", 256, 66}, 17: {"IQ2_XS", 256, 74},
	18: {"IQ3_XXS", 256, 98}, 19: {"IQ1_S", 256, 50}, 20: {"IQ4_NL", 32, 18}, 21: {"IQ3_S", 256, 110},
	22: {"IQ2_S", 256, 82}, 23: {"IQ4_XS", 256, 136}, 24: {"I8", 1, 1}, 25: {"I16", 1, 2},
	26: {"I32", 1, 4}, 27: {"I64", 1, 8}, 28: {"F64", 1, 8}, 29: {"IQ1_M", 256, 56}, 30: {"BF16", 1, 2},
	34: {"TQ1_0", 256, 54}, 35: {"TQ2_0", 256, 66}, 39: {"MXFP4", 32, 17},
}

// removed are ggml's types of former times, with their names then.
var removed = map[Type]string{
	5:  "Q4_3",
	31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}

// String returns ggml's name of the type.
func (t Type) String() string {
	if info, ok := types[t]; ok {
		return info.name
	}
	return "type " + strconv.FormatUint(uint64(t), 10)
}

// Block returns how many weights of a row the type stores together; 0 if it is not
// known.
func (t Type) Block() uint64 { return types[t].block }

func sortByOffset(order []int, ts []Tensor) {
	slices.SortStableFunc(order, func(a, b int) int {
		switch x, y := ts[a].Offset, ts[b].Offset; {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
}

// value type numbers of the metadata
const (
	kindU8 = iota
	kindI8
	kindU16
	kindI16
	kindU32
	kindI32
	kindF32
	kindBool
	kindString
	kindArray
	kindU64
	kindI64
	kindF64
)

// kindSize is the minimum size of a value in bytes, by kind.
var kindSize = [...]uint64{1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8}
