package llama

// What the library does otherwise for some architectures, and an engine has to make up for.

// everyRow are architectures after whose rows the library computes the logits of all, and
// then takes the first ones for those of the rows that were asked for. So all are asked for.
var everyRow = map[string]bool{"cogvlm": true}

// single are architectures that attend to chosen blocks of positions in a context for one
// sequence, and to all positions in one that several share, which their weights were not
// made for. So there is one sequence.
var single = map[string]bool{"minimax-m3": true}
