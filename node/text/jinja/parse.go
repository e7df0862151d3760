package jinja

import (
	"strconv"
	"strings"
)

// expr is an expression of a template, stmt a statement.
type (
	expr interface{ eval(r *run, s *scope) any }
	stmt interface{ exec(r *run, s *scope) signal }
)

// The kinds of expressions.
type (
	literal struct{ value any }
	name    struct{ id string }
	listOf  struct {
		items []expr
		tuple bool
	}
	dictOf struct{ keys, values []expr }
	attrOf struct { // x.name
		of   expr
		name string
	}
	itemOf    struct{ of, key expr }            // x[key]
	sliceOf   struct{ of, from, to, step expr } // from, to and step may be nil
	arguments struct {
		pos        []expr
		names      []string
		named      []expr
		list, dict expr // *list, **dict
	}
	callOf struct {
		fn   expr
		args arguments
	}
	filterOf struct {
		of   expr // nil: the text of a block
		name string
		args arguments
	}
	testOf struct {
		of   expr
		name string
		args arguments
		not  bool
	}
	notOf  struct{ of expr }
	signOf struct {
		of  expr
		neg bool
	}
	logical struct { // a and b and c
		parts []expr
		or    bool
	}
	chain struct { // a + b - c, left-associative
		first expr
		ops   []string
		rest  []expr
	}
	comparison struct { // a < b <= c
		first expr
		ops   []string
		rest  []expr
	}
	choice struct{ cond, yes, no expr } // yes if cond else no; no may be nil
)

// The kinds of statements.
type (
	block  []stmt
	data   struct{ text string }
	output struct{ of expr }
	branch struct {
		cond expr // nil: else
		body block
	}
	ifStmt  struct{ branches []branch }
	forStmt struct {
		target     target
		over, cond expr // cond may be nil
		body, none block
		recursive  bool
	}
	setStmt struct {
		targets []target // of one value each, or of all values
		value   expr     // nil: the text of body
		body    block
		filters []filterOf
	}
	withStmt struct {
		targets []target
		values  []expr
		body    block
	}
	macro struct {
		name     string
		params   []string
		defaults []expr // of the last parameters
		body     block
		// The macro refers to these variables for its other arguments.
		varargs, kwargs, caller bool
	}
	macroStmt struct{ of *macro }
	callStmt  struct {
		call *callOf
		body *macro
	}
	filterStmt struct {
		filters []filterOf
		body    block
	}
	jump struct{ of signal } // break, continue
)

// target is what a value is assigned to: a name, an attribute of a namespace,
// or several of them.
type target struct {
	name, attr string
	parts      []target
}

// maxNesting bounds the nesting of blocks and of expressions.
const maxNesting = 200

type parser struct {
	toks  []lexeme
	at    int
	depth int
	macro *macro // the one being parsed
	loops int    // enclosing the current position
}

func parse(src string) block {
	p := &parser{toks: lex(src)}
	body, _ := p.block()
	return body
}

func (p *parser) cur() lexeme  { return p.toks[p.at] }
func (p *parser) look() lexeme { return p.toks[min(p.at+1, len(p.toks)-1)] }

func (p *parser) next() lexeme {
	t := p.toks[p.at]
	if t.kind != tokEOF {
		p.at++
	}
	return t
}

func (p *parser) fail(format string, args ...any) {
	fail("line %d: "+format, append([]any{p.cur().line}, args...)...)
}

// enter counts a nesting level until the returned function is called.
func (p *parser) enter() func() {
	if p.depth++; p.depth > maxNesting {
		p.fail("too much is nested in each other")
	}
	return func() { p.depth-- }
}

func (t lexeme) is(kind tokenKind, text string) bool { return t.kind == kind && t.text == text }

func (p *parser) isOp(op string) bool     { return p.cur().is(tokOp, op) }
func (p *parser) isName(word string) bool { return p.cur().is(tokName, word) }

func (p *parser) skipOp(op string) bool {
	if p.isOp(op) {
		p.next()
		return true
	}
	return false
}

func (p *parser) skipName(word string) bool {
	if p.isName(word) {
		p.next()
		return true
	}
	return false
}

func (p *parser) wantOp(op string) {
	if !p.skipOp(op) {
		p.fail("%s is missing before %s", op, p.cur())
	}
}

func (p *parser) wantName() string {
	if p.cur().kind != tokName {
		p.fail("a name is missing before %s", p.cur())
	}
	return p.next().text
}

func (p *parser) want(kind tokenKind) {
	if p.cur().kind != kind {
		p.fail("%s is not expected here", p.cur())
	}
	p.next()
}

func (t lexeme) String() string {
	switch t.kind {
	case tokEOF:
		return "the end"
	case tokClose, tokEnd:
		return "the end of the tag"
	}
	return strconv.Quote(t.text)
}

// block parses until a tag that begins with one of the given words, and returns
// that word, which it consumes too.
func (p *parser) block(until ...string) (block, string) {
	defer p.enter()()
	var out block
	for {
		t := p.next()
		switch t.kind {
		case tokEOF:
			if len(until) > 0 {
				p.fail("%s is missing", until[len(until)-1])
			}
			return out, ""
		case tokData:
			out = append(out, data{t.text})
		case tokOpen:
			out = append(out, output{p.tuple(true)})
			p.want(tokClose)
		case tokBegin:
			word := p.wantName()
			for _, u := range until {
				if word == u {
					return out, word
				}
			}
			out = append(out, p.statement(word))
		}
	}
}

// body parses a block up to its end tag, starting after the tag that begins it.
func (p *parser) body(end string) block {
	p.want(tokEnd)
	body, _ := p.block(end)
	p.want(tokEnd)
	return body
}

func (p *parser) statement(word string) stmt {
	switch word {
	case "if":
		return p.ifStmt()
	case "for":
		return p.forStmt()
	case "set":
		return p.setStmt()
	case "with":
		return p.withStmt()
	case "macro":
		return macroStmt{p.macroStmt()}
	case "call":
		return p.callStmt()
	case "filter":
		filters := p.filters(true)
		return filterStmt{filters, p.body("endfilter")}
	case "generation": // marks the assistant's text for training
		return withStmt{body: p.body("endgeneration")}
	case "block":
		id := p.wantName()
		for p.skipName("scoped") || p.skipName("required") {
		}
		p.want(tokEnd)
		body, _ := p.block("endblock")
		p.skipName(id)
		p.want(tokEnd)
		return withStmt{body: body}
	case "autoescape": // chats are never escaped
		p.expression()
		return withStmt{body: p.body("endautoescape")}
	case "break", "continue":
		if p.loops == 0 {
			p.fail("%s is in no loop", word)
		}
		p.want(tokEnd)
		if word == "break" {
			return jump{stopLoop}
		}
		return jump{nextRound}
	case "do":
		e := p.tuple(true)
		p.want(tokEnd)
		return setStmt{targets: nil, value: e}
	case "include", "import", "from", "extends":
		p.fail("%s: a template may not read others", word)
	default:
		p.fail("%q is no statement", word)
	}
	return nil
}

func (p *parser) ifStmt() stmt {
	var s ifStmt
	for {
		cond := p.tuple(false)
		p.want(tokEnd)
		body, word := p.block("elif", "else", "endif")
		s.branches = append(s.branches, branch{cond, body})
		if word == "elif" {
			continue
		}
		if word == "else" {
			s.branches = append(s.branches, branch{nil, p.body("endif")})
		} else {
			p.want(tokEnd)
		}
		return s
	}
}

func (p *parser) forStmt() stmt {
	s := forStmt{target: p.target("in")}
	if !p.skipName("in") {
		p.fail("in is missing before %s", p.cur())
	}
	s.over = p.tuple(false)
	if p.skipName("if") {
		s.cond = p.expression()
	}
	s.recursive = p.skipName("recursive")
	p.want(tokEnd)
	p.loops++
	body, word := p.block("else", "endfor")
	p.loops--
	s.body = body
	if word == "else" {
		s.none = p.body("endfor")
	} else {
		p.want(tokEnd)
	}
	return s
}

// target parses names up to a word or sign that ends them.
func (p *parser) target(end string) target {
	defer p.enter()()
	var parts []target
	many := false
	for {
		if p.skipOp("(") {
			parts = append(parts, p.target(")"))
			p.wantOp(")")
		} else {
			t := target{name: p.wantName()}
			if p.skipOp(".") {
				t.attr = p.wantName()
			}
			parts = append(parts, t)
		}
		if !p.skipOp(",") {
			break
		}
		many = true
		if p.cur().text == end && p.cur().kind != tokString {
			break
		}
	}
	if len(parts) == 1 && !many {
		return parts[0]
	}
	return target{parts: parts}
}

func (p *parser) setStmt() stmt {
	s := setStmt{targets: []target{p.target("=")}}
	if p.skipOp("=") {
		s.value = p.tuple(true)
		p.want(tokEnd)
		return s
	}
	if p.isOp("|") {
		s.filters = p.filters(false)
	}
	s.body = p.body("endset")
	return s
}

func (p *parser) withStmt() stmt {
	var s withStmt
	for p.cur().kind != tokEnd {
		if len(s.targets) > 0 {
			p.wantOp(",")
		}
		s.targets = append(s.targets, p.target("="))
		p.wantOp("=")
		s.values = append(s.values, p.expression())
	}
	s.body = p.body("endwith")
	return s
}

// signature parses a macro's parameters, in parentheses.
func (p *parser) signature(m *macro) {
	p.wantOp("(")
	for !p.isOp(")") {
		if len(m.params) > 0 {
			p.wantOp(",")
			if p.isOp(")") {
				break
			}
		}
		m.params = append(m.params, p.wantName())
		if p.skipOp("=") {
			m.defaults = append(m.defaults, p.expression())
		} else if len(m.defaults) > 0 {
			p.fail("a parameter without a default follows one with")
		}
	}
	p.wantOp(")")
}

func (p *parser) macroBody(m *macro, end string) {
	outer, loops := p.macro, p.loops
	p.macro, p.loops = m, 0
	m.body = p.body(end)
	p.macro, p.loops = outer, loops
}

func (p *parser) macroStmt() *macro {
	m := &macro{name: p.wantName()}
	p.signature(m)
	p.macroBody(m, "endmacro")
	return m
}

func (p *parser) callStmt() stmt {
	m := &macro{name: "caller"}
	if p.isOp("(") {
		p.signature(m)
	}
	call, ok := p.expression().(*callOf)
	if !ok {
		p.fail("call calls nothing")
	}
	p.macroBody(m, "endcall")
	return callStmt{call, m}
}

// filters parses the filters after a value, or, with bare, those of a tag.
func (p *parser) filters(bare bool) []filterOf {
	var out []filterOf
	for bare || p.skipOp("|") {
		bare = false
		f := filterOf{name: p.dotted()}
		if p.isOp("(") {
			f.args = p.arguments()
		}
		out = append(out, f)
	}
	return out
}

func (p *parser) dotted() string {
	id := p.wantName()
	for p.skipOp(".") {
		id += "." + p.wantName()
	}
	return id
}

// tuple parses an expression, or several separated by commas.
func (p *parser) tuple(choices bool) expr {
	one := p.or
	if choices {
		one = p.expression
	}
	first := one()
	if !p.isOp(",") {
		return first
	}
	items := []expr{first}
	for p.skipOp(",") {
		if t := p.cur(); t.kind == tokEnd || t.kind == tokClose || t.is(tokOp, ")") {
			break
		}
		items = append(items, one())
	}
	return &listOf{items, true}
}

func (p *parser) expression() expr {
	defer p.enter()()
	e := p.or()
	for p.skipName("if") {
		cond := p.or()
		var no expr
		if p.skipName("else") {
			no = p.expression()
		}
		e = &choice{cond, e, no}
	}
	return e
}

func (p *parser) or() expr { return p.logical("or", p.and) }

func (p *parser) and() expr { return p.logical("and", p.not) }

func (p *parser) logical(word string, part func() expr) expr {
	first := part()
	if !p.isName(word) {
		return first
	}
	parts := []expr{first}
	for p.skipName(word) {
		parts = append(parts, part())
	}
	return &logical{parts, word == "or"}
}

func (p *parser) not() expr {
	if p.skipName("not") {
		defer p.enter()()
		return &notOf{p.not()}
	}
	return p.compare()
}

func (p *parser) compare() expr {
	first := p.sum()
	c := &comparison{first: first}
	for {
		op := ""
		switch t := p.cur(); {
		case t.kind == tokOp && strings.Contains(" == != < > <= >= ", " "+t.text+" "), t.is(tokName, "in"):
			op = p.next().text
		case t.is(tokName, "not") && p.look().is(tokName, "in"):
			p.next()
			p.next()
			op = "not in"
		}
		if op == "" {
			break
		}
		c.ops = append(c.ops, op)
		c.rest = append(c.rest, p.sum())
	}
	if len(c.ops) == 0 {
		return first
	}
	return c
}

func (p *parser) sum() expr     { return p.chain(p.joined, "+", "-") }
func (p *parser) joined() expr  { return p.chain(p.product, "~") }
func (p *parser) product() expr { return p.chain(p.power, "*", "/", "//", "%") }
func (p *parser) power() expr   { return p.chain(func() expr { return p.unary(true) }, "**") }

func (p *parser) chain(part func() expr, ops ...string) expr {
	first := part()
	c := &chain{first: first}
	for {
		op := ""
		for _, o := range ops {
			if p.skipOp(o) {
				op = o
				break
			}
		}
		if op == "" {
			break
		}
		c.ops = append(c.ops, op)
		c.rest = append(c.rest, part())
	}
	if len(c.ops) == 0 {
		return first
	}
	return c
}

func (p *parser) unary(filters bool) expr {
	defer p.enter()()
	var e expr
	switch {
	case p.skipOp("-"):
		e = &signOf{p.unary(false), true}
	case p.skipOp("+"):
		e = &signOf{p.unary(false), false}
	default:
		e = p.primary()
	}
	e = p.postfix(e)
	if !filters {
		return e
	}
	for {
		switch {
		case p.isOp("|"):
			for _, f := range p.filters(false) {
				f.of = e
				e = &f
			}
		case p.skipName("is"):
			e = p.test(e)
		case p.isOp("("):
			e = &callOf{e, p.arguments()}
		default:
			return e
		}
	}
}

func (p *parser) test(e expr) expr {
	t := &testOf{of: e, not: p.skipName("not")}
	t.name = p.dotted()
	switch c := p.cur(); {
	case c.is(tokOp, "("):
		t.args = p.arguments()
	case c.kind == tokName && c.text != "else" && c.text != "or" && c.text != "and" && c.text != "if" && c.text != "is" && c.text != "in" && c.text != "not",
		c.kind == tokString, c.kind == tokInt, c.kind == tokFloat, c.is(tokOp, "["), c.is(tokOp, "{"):
		t.args.pos = []expr{p.postfix(p.primary())}
	}
	return t
}

func (p *parser) primary() expr {
	t := p.next()
	switch t.kind {
	case tokName:
		switch t.text {
		case "true", "True":
			return &literal{true}
		case "false", "False":
			return &literal{false}
		case "none", "None":
			return &literal{nil}
		}
		p.noticed(t.text)
		return &name{t.text}
	case tokString:
		text := t.text
		for p.cur().kind == tokString {
			text += p.next().text
		}
		return &literal{text}
	case tokInt:
		n, err := strconv.ParseInt(t.text, 0, 64)
		if strings.Trim(t.text, "0") == "" {
			n, err = 0, nil
		}
		if err != nil {
			p.fail("%s is no number that fits", t.text)
		}
		return &literal{n}
	case tokFloat:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			p.fail("%s is no number that fits", t.text)
		}
		return &literal{f}
	case tokOp:
		switch t.text {
		case "(":
			if p.skipOp(")") {
				return &listOf{nil, true}
			}
			e := p.tuple(true)
			p.wantOp(")")
			return e
		case "[":
			return &listOf{p.items("]"), false}
		case "{":
			return p.dict()
		}
	}
	p.at--
	p.fail("%s is not expected here", p.cur())
	return nil
}

// noticed notes that a macro uses one of the variables for its other arguments.
func (p *parser) noticed(id string) {
	if p.macro == nil {
		return
	}
	switch id {
	case "varargs":
		p.macro.varargs = true
	case "kwargs":
		p.macro.kwargs = true
	case "caller":
		p.macro.caller = true
	}
}

func (p *parser) items(end string) []expr {
	var items []expr
	for !p.isOp(end) {
		if len(items) > 0 {
			p.wantOp(",")
			if p.isOp(end) {
				break
			}
		}
		items = append(items, p.expression())
	}
	p.wantOp(end)
	return items
}

func (p *parser) dict() expr {
	d := &dictOf{}
	for !p.isOp("}") {
		if len(d.keys) > 0 {
			p.wantOp(",")
			if p.isOp("}") {
				break
			}
		}
		d.keys = append(d.keys, p.expression())
		p.wantOp(":")
		d.values = append(d.values, p.expression())
	}
	p.wantOp("}")
	return d
}

func (p *parser) postfix(e expr) expr {
	for {
		switch {
		case p.skipOp("."):
			if p.cur().kind == tokInt {
				n, err := strconv.ParseInt(p.next().text, 10, 64)
				if err != nil {
					p.fail("no such index")
				}
				e = &itemOf{e, &literal{n}}
			} else {
				e = &attrOf{e, p.wantName()}
			}
		case p.skipOp("["):
			e = p.subscript(e)
		case p.isOp("("):
			e = &callOf{e, p.arguments()}
		default:
			return e
		}
	}
}

func (p *parser) subscript(of expr) expr {
	part := func() expr {
		if p.isOp(":") || p.isOp("]") {
			return nil
		}
		return p.expression()
	}
	from := part()
	if !p.skipOp(":") {
		if from == nil {
			p.fail("an index is missing")
		}
		if p.isOp(",") {
			items := []expr{from}
			for p.skipOp(",") {
				items = append(items, p.expression())
			}
			from = &listOf{items, true}
		}
		p.wantOp("]")
		return &itemOf{of, from}
	}
	s := &sliceOf{of: of, from: from, to: part()}
	if p.skipOp(":") {
		s.step = part()
	}
	p.wantOp("]")
	return s
}

func (p *parser) arguments() arguments {
	p.wantOp("(")
	var a arguments
	for n := 0; !p.isOp(")"); n++ {
		if n > 0 {
			p.wantOp(",")
			if p.isOp(")") {
				break
			}
		}
		switch {
		case p.skipOp("*"):
			a.list = p.expression()
		case p.skipOp("**"):
			a.dict = p.expression()
		case p.cur().kind == tokName && p.look().is(tokOp, "="):
			a.names = append(a.names, p.next().text)
			p.next()
			a.named = append(a.named, p.expression())
		default:
			if len(a.names) > 0 || a.dict != nil {
				p.fail("an argument without a name follows one with")
			}
			a.pos = append(a.pos, p.expression())
		}
	}
	p.wantOp(")")
	return a
}
