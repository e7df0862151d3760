package policy

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/lend"
	"github.com/shoalnet/shoal/protocol/member"
)

const (
	maxRules = 1000
	maxText  = 4096 // bytes of a rule
)

// Parse reads lend rules. Empty ones are left out. The error is a *RuleError, whose Err
// names the part that is wrong.
func Parse(rules []string) (Policy, error) {
	var p Policy
	for i, text := range rules {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		r, err := parseRule(text)
		if err == nil && len(p.rules) == maxRules {
			err = fmt.Errorf("at most %d rules can be kept", maxRules)
		}
		if err != nil {
			return Policy{}, &RuleError{i + 1, text, err}
		}
		p.rules = append(p.rules, *r)
	}
	return p, nil
}

func shorten(s string) string {
	if len(s) > 120 {
		return s[:120] + "..."
	}
	return s
}

func parseRule(text string) (*Rule, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("it is longer than %d bytes", maxText)
	}
	who, what, ok := strings.Cut(text, ":")
	if !ok {
		return nil, fmt.Errorf(`write who, a colon and what they get, as in "strangers: share 20%%; sessions 2"`)
	}
	r := &Rule{Text: text}
	if err := r.parseWho(strings.Fields(who)); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(what, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), " ")
		if name == "" {
			continue
		}
		name = strings.ToLower(name)
		if seen[name] {
			return nil, fmt.Errorf("%s stands there twice", name)
		}
		seen[name] = true
		if err := r.Grant.parse(name, strings.TrimSpace(value)); err != nil {
			return nil, err
		}
	}
	switch {
	case len(seen) == 0:
		return nil, fmt.Errorf("it says nothing of what they get: write nothing, or parts such as share 20%%")
	case r.Grant.Nothing && !onlyWhen(seen):
		return nil, fmt.Errorf("only models and hours can stand beside nothing")
	}
	return r, nil
}

// onlyWhen reports whether the parts beside nothing say when it holds.
func onlyWhen(seen map[string]bool) bool {
	for name := range seen {
		if name != "nothing" && name != "models" && name != "hours" {
			return false
		}
	}
	return true
}

var groups = map[string]kind{"anybody": anybody, "strangers": strangers, "members": members, "guests": guests, "trusted": trusted}

const whoKnown = "anybody, strangers, members, guests, guests of NAME, trusted, swarm NAME, swarm NAME role ROLE, or peer ID"

func (r *Rule) parseWho(words []string) error {
	first := ""
	if len(words) > 0 {
		first = strings.ToLower(words[0])
	}
	switch group, known := groups[first]; {
	case known && len(words) == 1:
		r.kind = group
	case len(words) == 2 && first == "peer":
		p, err := peer.Decode(words[1])
		if err != nil {
			return fmt.Errorf("%q is no peer ID; one is like 12D3KooW..., and machines' names cannot stand in a rule, since a machine chooses its own", words[1])
		}
		r.kind, r.peer = onePeer, p.String()
	case first == "guests" && len(words) >= 3 && strings.EqualFold(words[1], "of"):
		r.kind, r.swarm = guestsOf, strings.Join(words[2:], " ")
	case first == "swarm" && len(words) >= 4 && strings.EqualFold(words[len(words)-2], "role"):
		roles, err := member.ParseRoles(words[len(words)-1])
		if err != nil {
			return err
		}
		r.kind, r.swarm, r.role = ofRole, strings.Join(words[1:len(words)-2], " "), roles
	case first == "swarm" && len(words) >= 2:
		r.kind, r.swarm = ofSwarm, strings.Join(words[1:], " ")
	default:
		return fmt.Errorf("%q is nobody that is known: write %s", strings.Join(words, " "), whoKnown)
	}
	return nil
}

func (g *Grant) parse(name, value string) (err error) {
	switch name {
	case "nothing":
		if g.Nothing = true; value != "" {
			return fmt.Errorf("nothing takes no value, not %q", value)
		}
	case "share":
		g.Share, err = parsePart(name, value)
	case "cap":
		g.Cap, err = parsePart(name, value)
	case "models":
		g.Models, err = parsePatterns(value)
	case "context":
		g.Context, err = parseCount(name, value)
	case "sessions":
		g.Sessions, err = parseCount(name, value)
	case "tokens":
		err = g.parseTokens(value)
	case "hours":
		if value == "" {
			return fmt.Errorf("hours needs times such as 22:00-07:00")
		}
		g.Hours, err = lend.ParseHours(value)
	default:
		return fmt.Errorf("%q is no part of a rule: known are nothing, share, cap, models, context, sessions, tokens and hours, with semicolons between them", name)
	}
	return err
}

// parsePart reads 20% or 0.2: more than nothing, at most all.
func parsePart(name, s string) (float64, error) {
	num, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v > 0 && v <= 1) {
		return 0, fmt.Errorf("%s %q: write a part like 20%% or 0.2, more than 0 and at most 100%%", name, s)
	}
	return v, nil
}

func parseCount(name, s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%s %q: write a whole number from 1 on", name, s)
	}
	return int(n), nil
}

var periods = map[string]time.Duration{"day": 24 * time.Hour, "hour": time.Hour, "minute": time.Minute}

// PeriodName returns the name of a period as rules write it.
func PeriodName(d time.Duration) string {
	for name, p := range periods {
		if p == d {
			return name
		}
	}
	return d.String()
}

func (g *Grant) parseTokens(s string) error {
	num, per, _ := strings.Cut(s, "/")
	n, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
	g.Tokens, g.Per = n, periods[strings.ToLower(strings.TrimSpace(per))]
	if err != nil || n < 1 || g.Per == 0 {
		return fmt.Errorf("tokens %q: write a number from 1 on and a period, as in 100000/day, 5000/hour or 200/minute", s)
	}
	return nil
}

func parsePatterns(s string) ([]string, error) {
	list := strings.Fields(strings.ReplaceAll(s, ",", " "))
	if len(list) == 0 {
		return nil, fmt.Errorf("models needs names, which may have * in them")
	}
	for _, p := range list {
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("models %q: %w; * stands for any letters, ? for one, [a-z] for one of these", p, err)
		}
	}
	return list, nil
}

// matchAny reports whether one of the patterns matches one of the names, in any case.
// Slashes in names are letters like others.
func matchAny(patterns, names []string) bool {
	plain := strings.NewReplacer("/", "\x1f")
	for _, p := range patterns {
		for _, n := range names {
			if ok, err := path.Match(plain.Replace(strings.ToLower(p)), plain.Replace(strings.ToLower(n))); err == nil && ok {
				return true
			}
		}
	}
	return false
}

// Rejoin puts rules together again that were taken apart at commas, as command lines and
// the environment do with lists: what does not begin as a rule does belongs to the one
// before it.
func Rejoin(pieces []string) (rules []string) {
	for _, s := range pieces {
		for piece := range strings.SplitSeq(s, ",") {
			if n := len(rules); n > 0 && !begins(piece) {
				rules[n-1] += "," + piece
			} else {
				rules = append(rules, piece)
			}
		}
	}
	out := rules[:0]
	for _, r := range rules {
		if r = strings.TrimSpace(r); r != "" {
			out = append(out, r)
		}
	}
	return out
}

// begins reports whether a text begins as a rule does: with who it is about.
func begins(s string) bool {
	who, _, colon := strings.Cut(s, ":")
	words := strings.Fields(strings.ToLower(who))
	if len(words) == 0 {
		return false
	}
	_, group := groups[words[0]]
	return group && (colon && len(words) == 1 || len(words) > 2 && words[1] == "of") || len(words) > 1 && (words[0] == "swarm" || words[0] == "peer")
}

// ParseUse reads Use rules. Empty ones are left out. The error is a *RuleError.
func ParseUse(rules []string) (Use, error) {
	var u Use
	for i, text := range rules {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if err := u.add(text); err != nil {
			return Use{}, &RuleError{i + 1, text, err}
		}
	}
	return u, nil
}

func (u *Use) add(text string) error {
	if len(text) > maxText || len(u.rules) == maxRules {
		return fmt.Errorf("at most %d rules of %d bytes can be kept", maxRules, maxText)
	}
	pattern, word, special := cutLast(text)
	scope := Mine
	for ; scope <= Anybody && !strings.EqualFold(word, scope.String()); scope++ {
	}
	switch {
	case scope > Anybody:
		return fmt.Errorf("write mine, swarm or anybody, alone or behind a model's name and a colon")
	case special && pattern == "":
		return fmt.Errorf("there is no model in front of the colon")
	case special:
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("the model %q: %w; * stands for any letters, ? for one, [a-z] for one of these", pattern, err)
		}
		u.rules = append(u.rules, useRule{text, pattern, scope})
	case u.other != nil:
		return fmt.Errorf("there is already a rule for all models")
	default:
		u.other = &useRule{text: text, scope: scope}
	}
	return nil
}

// cutLast splits at the last colon: names of models have some.
func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndex(s, ":")
	if i < 0 {
		return "", s, false
	}
	return strings.TrimSpace(s[:i]), strings.TrimSpace(s[i+1:]), true
}
