package door

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"strings"

	"github.com/shoalnet/shoal/node/files"
)

// Token reads the token that shoal's own endpoints require from a file, or makes one and
// writes it there. Errors are those of writing.
func Token(path string) (string, error) {
	if raw, err := os.ReadFile(path); err == nil && len(raw) >= 32 {
		return strings.TrimSpace(string(raw)), nil
	}
	b := make([]byte, 24)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	token := hex.EncodeToString(b)
	return token, files.Replace(path, []byte(token+"\n"), 0o600)
}
