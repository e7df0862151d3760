package main

import (
	"fmt"
	"io"
	"net/url"
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
	URL     string  `json:"url"`
	Expires float64 `json:"expires_s"`
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
	if st.API == "" {
		return usageError{"this node has no page: it was started with --api off"}
	}
	code, err := cl.OwnerLink(c.Context)
	if err != nil {
		return err
	}
	link := pageLink{URL: (&url.URL{Scheme: "http", Host: st.API, Path: "/", Fragment: "owner=" + code.Code}).String(), Expires: code.Expires}
	if c.Bool("json") {
		err = printJSON(c.App.Writer, link)
	} else {
		err = printLink(c.App.Writer, link, c.Bool("qr"))
	}
	if err == nil && c.Bool("open") {
		err = openBrowser(link.URL)
	}
	return err
}

func printLink(w io.Writer, link pageLink, asQR bool) error {
	if _, err := fmt.Fprintln(w, link.URL); err != nil || !asQR {
		return err
	}
	return printQR(w, link.URL)
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
