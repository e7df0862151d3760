package scenario

import (
	"fmt"
	"math/rand/v2"
)

const maxPrompts = 1000

var (
	heroes = []string{"fox", "girl", "boy", "bear", "robin", "farmer", "mouse", "sailor", "baker", "dragon"}
	kindOf = []string{"little", "brave", "sleepy", "curious", "kind", "old", "shy", "clever", "lost", "happy"}
	things = []string{"lantern", "boat", "red ball", "garden", "music box", "kite", "secret door", "warm coat", "map", "silver bell"}
)

// drawPrompts returns n distinct beginnings of stories.
func drawPrompts(seed uint64, n int) []string {
	order := rand.New(rand.NewPCG(seed, 'p')).Perm(len(heroes) * len(kindOf) * len(things))
	prompts := make([]string, n)
	for i := range prompts {
		k := order[i]
		prompts[i] = fmt.Sprintf("Once upon a time there was a %s %s who had a %s.",
			kindOf[k%len(kindOf)], heroes[k/len(kindOf)%len(heroes)], things[k/len(kindOf)/len(heroes)])
	}
	return prompts
}
