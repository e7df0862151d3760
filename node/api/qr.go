package api

import (
	"net/http"
	"strings"

	"rsc.io/qr"
)

// maxQR is the longest text of a QR code, in bytes: a longer one makes a picture that no
// phone can read from a screen.
const maxQR = 1024

// qr answers POST /shoal/v1/qr: the code of a text, row by row, with # for black. The page
// draws it, because its policy lets it use no library from elsewhere.
func (s *server) qr(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Text string `json:"text"`
	}
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if len(req.Text) > maxQR {
		return badParam("text", "has %d bytes, at most %d fit", len(req.Text), maxQR)
	}
	rows, err := QR(req.Text)
	if err != nil {
		return badParam("text", "cannot be drawn: %v", err)
	}
	writeJSON(w, http.StatusOK, struct {
		Rows []string `json:"rows"`
	}{rows})
	return nil
}

// QR returns the QR code of a text: rows of equal length, # for black and a space for
// white, without the margin of four modules that a reader needs around it. It fails if
// the text is too long for any code.
func QR(text string) ([]string, error) {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return nil, err
	}
	rows := make([]string, code.Size)
	for y := range rows {
		var row strings.Builder
		for x := range code.Size {
			if code.Black(x, y) {
				row.WriteByte('#')
			} else {
				row.WriteByte(' ')
			}
		}
		rows[y] = row.String()
	}
	return rows, nil
}
