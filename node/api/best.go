package api

import "slices"

// best_of generates more choices than are returned, and keeps the likeliest.

// chooseBest reads best_of.
func (j *job) chooseBest(r *completionRequest, base *GenerateRequest, inputs []GenerateRequest) error {
	n := deref(r.N, 1)
	best := deref(r.BestOf, n)
	if err := within("best_of", best, 1, maxChoices); err != nil {
		return err
	}
	switch {
	case best < n:
		return badParam("best_of", "must be at least n, %d", n)
	case best == n:
		return nil
	case r.Stream:
		return badParam("best_of", "above n cannot be streamed: the best is known only at the end")
	case r.Echo:
		return badParam("best_of", "above n cannot be combined with echo")
	}
	j.bestOf, j.keep, j.ranks = best, n, !base.Sampling.Logprobs
	base.Sampling.Logprobs = true
	for i := range inputs {
		inputs[i].Sampling.Logprobs = true
	}
	return nil
}

// best returns the choices that are kept of those of each prompt, the likeliest first:
// by the mean log probability of their tokens, as other servers have it.
func (a *answer) best() []int {
	var kept []int
	for from := 0; from < len(a.choices); from += a.n {
		of := make([]int, a.n)
		for k := range of {
			of[k] = from + k
		}
		if a.bestOf > 0 {
			slices.SortStableFunc(of, func(x, y int) int {
				switch p, q := a.choices[x].meanLogprob(), a.choices[y].meanLogprob(); {
				case p > q:
					return -1
				case p < q:
					return 1
				}
				return 0
			})
			of = of[:a.keep]
		}
		kept = append(kept, of...)
	}
	return kept
}

func (c *choiceState) meanLogprob() float64 {
	sum := 0.0
	for _, t := range c.tokens {
		sum += t.Logprob
	}
	return sum / float64(max(1, len(c.tokens)))
}
