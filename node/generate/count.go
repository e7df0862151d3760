package generate

import (
	"context"

	"github.com/shoalnet/shoal/node/api"
)

// Count returns how many tokens the model reads for a request, without answering it. The
// errors are those of Generate that come before a route is sought; a prompt that is too
// long for the model is counted all the same, unless its text alone shows that it is.
func (g *Generator) Count(ctx context.Context, req *api.GenerateRequest) (int, error) {
	one := &generation{Generator: g, req: req}
	if err := one.readTokens(ctx); err != nil {
		return 0, err
	}
	return len(one.ids), nil
}
