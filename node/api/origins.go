package api

import (
	"regexp"
	"slices"
	"strings"
)

// anyMatches reports whether one of an operator's patterns fits a browser's origin.
// A pattern is an origin, in which * stands for any host (chrome-extension://*), *. at
// the beginning of the host for any name below a domain (https://*.example.com), and :*
// for any port or none (http://localhost:*).
func anyMatches(patterns []string, origin string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return originMatches(p, origin) })
}

// originPattern is what anyMatches understands.
var originPattern = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://(\*|(\*\.)?([a-zA-Z0-9_.-]+|\[[0-9a-fA-F:]+\])(:(\*|[0-9]{1,5}))?)$`)

// ValidOrigin reports whether an operator's text is an origin or a pattern of origins,
// such as https://chat.example or chrome-extension://*.
func ValidOrigin(pattern string) bool { return originPattern.MatchString(pattern) }

func originMatches(pattern, origin string) bool {
	scheme, host, ok := strings.Cut(strings.ToLower(pattern), "://")
	gotScheme, got, is := strings.Cut(strings.ToLower(origin), "://")
	host, got = strings.TrimSuffix(host, "/"), strings.TrimSuffix(got, "/")
	if !ok || !is || gotScheme != scheme || strings.ContainsAny(got, `/\?#@`) { // an origin has none of these
		return false
	}
	if host == "*" {
		return true
	}
	if bare, ok := strings.CutSuffix(host, ":*"); ok {
		host, got = bare, withoutPort(got)
	}
	return hostMatches(host, got)
}

// hostMatches reports whether a host is the pattern, or below the domain that follows *.
// in it.
func hostMatches(pattern, host string) bool {
	if domain, below := strings.CutPrefix(pattern, "*."); below && domain != "" {
		return len(host) > len(domain)+1 && strings.EqualFold(host[len(host)-len(domain)-1:], "."+domain)
	}
	return strings.EqualFold(pattern, host)
}

// withoutPort removes a port; the brackets of an IPv6 address stay.
func withoutPort(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}
