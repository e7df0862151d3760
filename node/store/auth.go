package store

import (
	"net/http"
	"os"
)

// Authorize gives a request for an origin the user's Hugging Face token, if
// its host may see that.
func Authorize(req *http.Request) {
	if token := os.Getenv("HF_TOKEN"); token != "" && trusted(req.URL) {
		req.Header.Set("Authorization", "Bearer "+token) // not passed on to other hosts by redirects
	}
}
