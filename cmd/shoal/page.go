package main

import (
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/api"
)

func pageCommand() *cli.Command {
	return &cli.Command{
		Name: "page", Usage: "print a link to the page of the node in this home, which lets one browser change the node",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "open", Usage: "also open it in the browser"},
			&cli.BoolFlag{Name: "qr", Usage: "also print it as a QR code"},
		}, homeFlag(), jsonFlag()),
		Description: "The link works once, and for ten minutes. That browser may then pull, serve and remove models and change the settings, until the node is restarted.\n" +
			"On the node's own machine no link is needed if the browser runs as the node's user, on Linux, and the API asks for no key.",
		Action: runPage,
	}
}

// pageLink is a link to the page, for scripts.
type pageLink struct {
	URL         string   `json:"url"`              // on the node's own machine
	Others      []string `json:"others,omitempty"` // the same for other devices
	Fingerprint string   `json:"tls_fingerprint,omitempty"`
	Expires     float64  `json:"expires_s"`
}

func runPage(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	cl := running(c.Context, c.String("home"))
	if cl == nil {
		return api.Errorf(api.NoRoute, "no node is running in %s: start one with `shoal node`", c.String("home"))
	}
	st, err := cl.Status(c.Context)
	if err != nil {
		return err
	}
	if len(st.URLs) == 0 {
		return usageError{"this node has no page: it was started with --api off"}
	}
	code, err := cl.OwnerLink(c.Context)
	if err != nil {
		return err
	}
	link := newPageLink(st, code)
	switch {
	case c.Bool("json"):
		err = printJSON(c.App.Writer, link)
	default:
		err = link.print(c.App.Writer, c.Bool("qr"))
	}
	if err == nil && c.Bool("open") {
		err = openBrowser(link.URL)
	}
	return err
}

// newPageLink puts a code into the addresses of a node's page. Other machines may use it
// only over TLS.
func newPageLink(st *api.Status, code api.OwnerCode) *pageLink {
	fragment := "#owner=" + code.Code
	link := &pageLink{URL: st.URLs[0] + fragment, Expires: code.Expires, Fingerprint: st.Fingerprint}
	for _, u := range st.URLs[1:] {
		if strings.HasPrefix(u, "https://") {
			link.Others = append(link.Others, u+fragment)
		}
	}
	return link
}

// print prints the link for people: for this machine, and for others if there are any,
// whose QR code is what a phone wants.
func (l *pageLink) print(w io.Writer, asQR bool) error {
	text := l.URL + "\n"
	for _, u := range l.Others {
		text += "from another device: " + u + "\n"
	}
	if len(l.Others) > 0 {
		text += "There the browser warns of the certificate; it is this node's if its SHA-256 fingerprint is\n" + l.Fingerprint + "\n"
	}
	if _, err := io.WriteString(w, text); err != nil || !asQR {
		return err
	}
	return printQR(w, append(l.Others, l.URL)[0])
}

// printCertificate says where other devices find the page, and how they know it.
func printCertificate(w io.Writer, urls []string, fingerprint string) {
	for _, u := range urls {
		if strings.HasPrefix(u, "https://") {
			fmt.Fprintf(w, "page for other devices: %s\n", u)
		}
	}
	fmt.Fprintf(w, "certificate, SHA-256: %s\n", fingerprint)
	if isTerminal(w) {
		_ = printQR(w, fingerprint) // it is printed above
	}
}

// printQR prints the QR code of a text, two rows per line. It is black on white whatever
// the terminal's colours are: not every reader takes it the other way round.
func printQR(w io.Writer, text string) error {
	const margin = 4
	rows, err := api.QR(text)
	if err != nil {
		return err
	}
	black := func(x, y int) bool {
		x, y = x-margin, y-margin
		return y >= 0 && y < len(rows) && x >= 0 && x < len(rows[y]) && rows[y][x] == '#'
	}
	var b strings.Builder
	for y := 0; y < len(rows)+2*margin; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := range len(rows) + 2*margin {
			switch top, low := black(x, y), black(x, y+1); {
			case top && low:
				b.WriteString("█")
			case top:
				b.WriteString("▀")
			case low:
				b.WriteString("▄")
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// openBrowser opens an address as the desktop does. Other users of this machine can see it
// among the processes, but a code works only once, and the page says if it was used before.
func openBrowser(address string) error {
	name, args := "xdg-open", []string{address}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
	}
	if err := exec.Command(name, args...).Run(); err != nil { //nolint:gosec // the address is the node's own
		return fmt.Errorf("no browser could be opened (%s: %w): open the link yourself", name, err)
	}
	return nil
}
