package api

import "context"

// OwnerCode opens the page for the node's owner, once. It belongs into the fragment of the
// page's address, as #owner=CODE.
type OwnerCode struct {
	Code    string  `json:"code"`
	Expires float64 `json:"expires_s"` // seconds from now
}

// OwnerLink makes a code that lets one browser change the node. Errors: see Client.
func (c *Client) OwnerLink(ctx context.Context) (OwnerCode, error) {
	var code OwnerCode
	return code, c.post(ctx, "/shoal/v1/owner/link", struct{}{}, &code)
}
