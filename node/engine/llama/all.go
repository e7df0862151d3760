package llama

import "slices"

// All is Find for every copy of the library, in the order in which Find would take them.
func All(named string, extra ...string) (found []*Library) {
	var looked []string
	for _, p := range places(named, extra) {
		if slices.Contains(looked, p.Dir) {
			continue
		}
		looked = append(looked, p.Dir)
		if lib, _ := libraryIn(p.Dir); lib != nil {
			lib.Origin = p.Origin
			found = append(found, lib)
		}
	}
	return found
}
