package llama

import "strconv"

// boundary returns the name that the library gives to what the last of a model's blocks,
// by its number, passes on.
func boundary(arch string, last int) string {
	switch arch {
	case "nemotron_h", "nemotron_h_moe":
		return "nemotron_h_block_out-" + strconv.Itoa(last)
	case "step35":
		return "h_nextn" // it is named once more, for a block that drafts tokens
	}
	return "l_out-" + strconv.Itoa(last)
}
