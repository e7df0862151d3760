package store

import (
	"net/http"
	"os"
)

// Authorize adds the user's Hugging Face token to a request for an origin, if
// the token may be sent to its host.
func Authorize(req *http.Request) {
	if token := os.Getenv("HF_TOKEN"); token != "" && trusted(req.URL) {
		req.Header.Set("Authorization", "Bearer "+token) // redirects do not pass it on to other hosts
	}
}
