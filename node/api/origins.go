package api

import (
	"net/url"
	"strings"
)

// anyMatches reports whether one of an operator's patterns fits a browser's origin.
// A pattern is an origin, in which * stands for any host (chrome-extension://*), *. at
// the beginning of the host for any name below a domain (https://*.example.com), and :*
// for any port or none (http://localhost:*). * alone is every origin.
func anyMatches(patterns []string, origin string) bool {
	for _, p := range patterns {
		if p == "*" || p == origin || originMatches(p, origin) {
			return true
		}
	}
	return false
}

func originMatches(pattern, origin string) bool {
	scheme, host, ok := strings.Cut(strings.ToLower(strings.TrimSuffix(pattern, "/")), "://")
	if !ok {
		return false
	}
	if u, err := url.Parse(origin); err != nil || u.User != nil || u.Path != "" && u.Path != "/" {
		return false
	}
	gotScheme, got, ok := strings.Cut(strings.ToLower(strings.TrimSuffix(origin, "/")), "://")
	if !ok || gotScheme != scheme {
		return false
	}
	if host == "*" {
		return true
	}
	if bare, any := strings.CutSuffix(host, ":*"); any {
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
