package home

import "path/filepath"

// Swarms is the directory of the private swarms: a folder for each, named by its ID.
func (h Home) Swarms() string { return h.file("swarms") }

// Swarm is the folder of the private swarm with this ID, in hexadecimal.
func (h Home) Swarm(id string) string { return filepath.Join(h.Swarms(), id) }

// Chosen exists once somebody has chosen that the home is in the open network.
func (h Home) Chosen() string { return filepath.Join(h.Swarms(), "chosen") }

// Kept exists in a home that was in the open network before homes had swarms, if it has the
// folder of swarms because of one that was not joined in the end.
func (h Home) Kept() string { return filepath.Join(h.Swarms(), "kept") }
