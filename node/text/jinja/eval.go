package jinja

import (
	"math"
	"slices"
	"strings"
	"time"
)

// signal is how a statement ended.
type signal int

const (
	goOn signal = iota
	stopLoop
	nextRound
)

// Limits of one rendering. Templates come with models, from untrusted sources.
const (
	maxDepth = 2500      // of nested evaluations; macros may call themselves
	maxAlloc = 256 << 20 // bytes of all values created
	maxValue = 32 << 20  // bytes of one value
	maxRange = 100_000   // items of a range
	itemSize = 16        // bytes of a list's item
)

// run is one rendering.
type run struct {
	out      *strings.Builder
	deadline time.Time
	depth    int
	steps    int
	alloc    int
}

// enter counts an evaluation; leave decreases its depth. A failing evaluation
// never leaves.
func (r *run) enter() {
	if r.depth++; r.depth > maxDepth {
		fail("it nests too deep")
	}
	r.work(1)
}

func (r *run) leave() { r.depth-- }

// work counts steps, and checks the time limit now and then.
func (r *run) work(n int) {
	r.steps += n
	if r.steps >= 1<<14 {
		r.steps = 0
		if time.Now().After(r.deadline) {
			fail("it does not end")
		}
	}
}

// charge counts bytes that are about to be allocated.
func (r *run) charge(n int) {
	if n < 0 || n > maxValue || n > maxAlloc-r.alloc {
		fail("it takes too much memory")
	}
	r.alloc += n
	r.work(n >> 6)
}

func (r *run) write(s string) {
	if r.out.Len()+len(s) > maxRendered {
		fail("it writes too much")
	}
	r.charge(len(s))
	r.out.WriteString(s)
}

// capture returns what f writes.
func (r *run) capture(f func()) string {
	outer := r.out
	r.out = &strings.Builder{}
	f()
	s := r.out.String()
	r.out = outer
	return s
}

// scope holds the names of a block; names of enclosing blocks can be read.
type scope struct {
	vars  map[string]any
	outer *scope
}

func (s *scope) inner() *scope { return &scope{outer: s} }

func (s *scope) get(id string) (any, bool) {
	for ; s != nil; s = s.outer {
		if v, ok := s.vars[id]; ok {
			return v, true
		}
	}
	return nil, false
}

func (s *scope) set(id string, v any) {
	if s.vars == nil {
		s.vars = map[string]any{}
	}
	s.vars[id] = v
}

func (r *run) eval(e expr, s *scope) any {
	r.enter()
	v := e.eval(r, s)
	r.leave()
	return v
}

func (r *run) exec(b block, s *scope) signal {
	r.enter()
	for _, st := range b {
		r.work(1)
		if sig := st.exec(r, s); sig != goOn {
			r.leave()
			return sig
		}
	}
	r.leave()
	return goOn
}

// Statements.

func (d data) exec(r *run, _ *scope) signal {
	r.write(d.text)
	return goOn
}

func (o output) exec(r *run, s *scope) signal {
	r.write(r.str(r.eval(o.of, s)))
	return goOn
}

func (i ifStmt) exec(r *run, s *scope) signal {
	for _, b := range i.branches {
		if b.cond == nil || truth(r.eval(b.cond, s)) {
			return r.exec(b.body, s)
		}
	}
	return goOn
}

// loop is the variable "loop" of a for block.
type loop struct {
	items   []any
	at      int
	depth   int
	again   callable // renders the block for other items, if the loop is recursive
	changed []any
}

func (f forStmt) exec(r *run, s *scope) signal {
	f.through(r, s, r.eval(f.over, s), 0)
	return goOn
}

// through runs the block for the items of one value.
func (f forStmt) through(r *run, s *scope, over any, depth int) {
	items := r.items(over)
	if f.cond != nil {
		var kept []any
		for _, x := range items {
			in := s.inner()
			r.assign(in, f.target, x)
			if truth(r.eval(f.cond, in)) {
				kept = append(kept, x)
			}
		}
		items = kept
	}
	l := &loop{items: items, depth: depth}
	if f.recursive {
		l.again = func(r *run, a args) any {
			if len(a.pos) != 1 {
				fail("loop() takes what to go through")
			}
			return r.capture(func() { f.through(r, s, a.pos[0], depth+1) })
		}
	}
	for i, x := range items {
		l.at = i
		in := s.inner()
		in.set("loop", l)
		r.assign(in, f.target, x)
		if r.exec(f.body, in) == stopLoop {
			break
		}
	}
	if len(items) == 0 {
		r.exec(f.none, s.inner())
	}
}

// items returns what a for block, or a filter, iterates over.
func (r *run) items(v any) []any {
	switch x := v.(type) {
	case undefined:
		return nil
	case *dict:
		return x.keys
	case string:
		r.charge(len(x) * itemSize)
		var out []any
		for _, c := range x {
			out = append(out, string(c))
		}
		return out
	}
	items, ok := sequence(v)
	if !ok {
		fail("a %s is nothing to go through", kind(v))
	}
	return items
}

func (r *run) assign(s *scope, t target, v any) {
	switch {
	case t.parts != nil:
		items := r.items(v)
		if len(items) != len(t.parts) {
			fail("%d values for %d names", len(items), len(t.parts))
		}
		for i, part := range t.parts {
			r.assign(s, part, items[i])
		}
	case t.attr != "":
		of, _ := s.get(t.name)
		ns, ok := of.(*namespace)
		if !ok {
			fail("%s is no namespace, so %s.%s cannot be set", t.name, t.name, t.attr)
		}
		ns.attrs[t.attr] = v
	default:
		s.set(t.name, v)
	}
}

func (t setStmt) exec(r *run, s *scope) signal {
	if t.value != nil {
		v := r.eval(t.value, s)
		for _, to := range t.targets {
			r.assign(s, to, v)
		}
		return goOn
	}
	var v any = r.capture(func() { r.exec(t.body, s.inner()) })
	for _, f := range t.filters {
		v = r.filter(f.name, v, r.args(f.args, s))
	}
	r.assign(s, t.targets[0], v)
	return goOn
}

func (w withStmt) exec(r *run, s *scope) signal {
	in := s.inner()
	for i, t := range w.targets {
		r.assign(in, t, r.eval(w.values[i], s))
	}
	return r.exec(w.body, in)
}

func (f filterStmt) exec(r *run, s *scope) signal {
	var v any = r.capture(func() { r.exec(f.body, s.inner()) })
	for _, g := range f.filters {
		v = r.filter(g.name, v, r.args(g.args, s))
	}
	r.write(r.str(v))
	return goOn
}

func (j jump) exec(*run, *scope) signal { return j.of }

func (m macroStmt) exec(_ *run, s *scope) signal {
	s.set(m.of.name, m.of.callable(s))
	return goOn
}

func (c callStmt) exec(r *run, s *scope) signal {
	fn, ok := r.eval(c.call.fn, s).(callable)
	if !ok {
		fail("call calls nothing")
	}
	a := r.args(c.call.args, s)
	a.names = append(slices.Clip(a.names), "caller")
	a.named = append(slices.Clip(a.named), any(c.body.callable(s)))
	r.write(r.str(fn(r, a)))
	return goOn
}

// callable returns a macro as a function, which sees the names in scope where
// the macro was defined.
func (m *macro) callable(s *scope) callable {
	return func(r *run, a args) any {
		in := s.inner()
		extra := newDict()
		for i, id := range a.names {
			switch {
			case slices.Contains(m.params, id):
				if at := slices.Index(m.params, id); at < len(a.pos) {
					fail("%s() is given %s twice", m.name, id)
				}
				in.set(id, a.named[i])
			case id == "caller":
				in.set(id, a.named[i])
			case m.kwargs:
				extra.set(id, a.named[i])
			default:
				fail("%s() takes no %s", m.name, id)
			}
		}
		if len(a.pos) > len(m.params) && !m.varargs {
			fail("%s() takes %d arguments, not %d", m.name, len(m.params), len(a.pos))
		}
		for i, id := range m.params {
			if _, given := in.vars[id]; given {
				continue
			}
			d := i - (len(m.params) - len(m.defaults))
			switch {
			case i < len(a.pos):
				in.set(id, a.pos[i])
			case d >= 0:
				in.set(id, r.eval(m.defaults[d], in))
			default:
				in.set(id, undefined{"parameter " + id})
			}
		}
		if m.varargs {
			in.set("varargs", tuple(a.pos[min(len(a.pos), len(m.params)):]))
		}
		if m.kwargs {
			in.set("kwargs", extra)
		}
		return r.capture(func() { r.exec(m.body, in) })
	}
}

// Expressions.

func (l *literal) eval(*run, *scope) any { return l.value }

func (n *name) eval(_ *run, s *scope) any {
	if v, ok := s.get(n.id); ok {
		return v
	}
	return undefined{n.id}
}

func (l *listOf) eval(r *run, s *scope) any {
	r.charge(len(l.items) * itemSize)
	out := make([]any, len(l.items))
	for i, e := range l.items {
		out[i] = r.eval(e, s)
	}
	if l.tuple {
		return tuple(out)
	}
	return out
}

func (d *dictOf) eval(r *run, s *scope) any {
	r.charge(len(d.keys) * 6 * itemSize)
	out := newDict()
	for i, k := range d.keys {
		out.set(r.eval(k, s), r.eval(d.values[i], s))
	}
	return out
}

func (a *attrOf) eval(r *run, s *scope) any { return r.attr(r.eval(a.of, s), a.name) }

// attr returns x.name: a method or other attribute of the value, or an item.
func (r *run) attr(v any, id string) any {
	switch x := v.(type) {
	case undefined:
		fail("%s is undefined", x.what)
	case *namespace:
		if a, ok := x.attrs[id]; ok {
			return a
		}
	case *loop:
		return x.attr(id)
	}
	if m := method(v, id); m != nil {
		return m
	}
	if d, ok := v.(*dict); ok {
		if item, ok := d.get(id); ok {
			return item
		}
	}
	return undefined{kind(v) + "." + id}
}

func (i *itemOf) eval(r *run, s *scope) any {
	return r.item(r.eval(i.of, s), r.eval(i.key, s))
}

// item returns x[key].
func (r *run) item(v, key any) any {
	if x, ok := v.(undefined); ok {
		fail("%s is undefined", x.what)
	}
	r.weigh(key)
	if d, ok := v.(*dict); ok {
		if _, list := key.([]any); list || is[*dict](key) {
			return undefined{"what is no key"}
		}
		if item, ok := d.get(key); ok {
			return item
		}
	} else if n, ok := integer(key); ok {
		if s, ok := v.(string); ok {
			r.weigh(v)
			if c, ok := charAt(s, n); ok {
				return c
			}
		} else if items, ok := sequence(v); ok {
			if n < 0 {
				n += int64(len(items))
			}
			if n >= 0 && n < int64(len(items)) {
				return items[n]
			}
		}
	}
	if id, ok := key.(string); ok {
		if _, ok := v.(*dict); !ok {
			return r.attr(v, id)
		}
		if m := method(v, id); m != nil {
			return m
		}
	}
	return undefined{kind(v) + "[" + r.str(key) + "]"}
}

// charAt returns a character of a text, counted from the end if n is negative.
func charAt(s string, n int64) (string, bool) {
	if n < 0 {
		n += int64(runes(s))
	}
	if n < 0 || n >= int64(len(s)) {
		return "", false
	}
	for i := range s {
		if n == 0 {
			return firstRune(s[i:]), true
		}
		n--
	}
	return "", false
}

func (l *sliceOf) eval(r *run, s *scope) any {
	v := r.eval(l.of, s)
	r.weigh(v)
	bound := func(e expr) (int, bool) {
		if e == nil {
			return 0, false
		}
		x := r.eval(e, s)
		if x == nil {
			return 0, false
		}
		n, ok := integer(x)
		if !ok {
			fail("a %s is no index", kind(x))
		}
		return int(max(min(n, math.MaxInt32), -math.MaxInt32)), true
	}
	from, hasFrom := bound(l.from)
	to, hasTo := bound(l.to)
	step, ok := bound(l.step)
	if !ok {
		step = 1
	}
	switch x := v.(type) {
	case undefined:
		fail("%s is undefined", x.what)
	case string:
		if l.step == nil && len(x) == runes(x) { // no copy is needed
			at := slice(len(x), from, to, 1, hasFrom, hasTo)
			return x[at.from:max(at.from, at.to)]
		}
		chars := []rune(x)
		r.charge(len(chars) * 8)
		var b strings.Builder
		slice(len(chars), from, to, step, hasFrom, hasTo).each(func(i int) { b.WriteRune(chars[i]) })
		return b.String()
	}
	items, ok := sequence(v)
	if !ok {
		fail("a %s has no parts", kind(v))
	}
	r.charge(len(items) * itemSize)
	out := []any{}
	slice(len(items), from, to, step, hasFrom, hasTo).each(func(i int) { out = append(out, items[i]) })
	if _, ok := v.(tuple); ok {
		return tuple(out)
	}
	return out
}

// indexes are the indexes of a slice, with Python's semantics.
type indexes struct{ from, to, step int }

func slice(n, from, to, step int, hasFrom, hasTo bool) indexes {
	if step == 0 {
		fail("a slice cannot go in steps of 0")
	}
	low, high := 0, n
	if step < 0 {
		low, high = -1, n-1
	}
	clamp := func(i int) int {
		if i < 0 {
			i += n
		}
		return min(max(i, low), high)
	}
	at := indexes{low, high, step}
	if step < 0 {
		at.from, at.to = high, low
	}
	if hasFrom {
		at.from = clamp(from)
	}
	if hasTo {
		at.to = clamp(to)
	}
	return at
}

func (x indexes) each(f func(int)) {
	for i := x.from; x.step > 0 && i < x.to || x.step < 0 && i > x.to; i += x.step {
		f(i)
	}
}

func (r *run) args(a arguments, s *scope) args {
	out := args{names: a.names}
	for _, e := range a.pos {
		out.pos = append(out.pos, r.eval(e, s))
	}
	for _, e := range a.named {
		out.named = append(out.named, r.eval(e, s))
	}
	if a.list != nil {
		out.pos = append(out.pos, r.items(r.eval(a.list, s))...)
	}
	if a.dict != nil {
		d, ok := r.eval(a.dict, s).(*dict)
		if !ok {
			fail("** takes a dict")
		}
		out.names, out.named = slices.Clone(out.names), slices.Clone(out.named)
		for i, k := range d.keys {
			out.names, out.named = append(out.names, r.str(k)), append(out.named, d.values[i])
		}
	}
	return out
}

func (c *callOf) eval(r *run, s *scope) any {
	switch fn := r.eval(c.fn, s).(type) {
	case callable:
		return fn(r, r.args(c.args, s))
	case *loop:
		if fn.again != nil {
			return fn.again(r, r.args(c.args, s))
		}
		fail("the loop is not recursive")
	case undefined:
		fail("%s is undefined", fn.what)
	default:
		fail("a %s cannot be called", kind(fn))
	}
	return nil
}

func (f *filterOf) eval(r *run, s *scope) any {
	v := r.eval(f.of, s)
	return r.filter(f.name, v, r.args(f.args, s))
}

func (t *testOf) eval(r *run, s *scope) any {
	v := r.eval(t.of, s)
	return r.test(t.name, v, r.args(t.args, s)) != t.not
}

func (n *notOf) eval(r *run, s *scope) any { return !truth(r.eval(n.of, s)) }

func (n *signOf) eval(r *run, s *scope) any {
	v := r.eval(n.of, s)
	if i, ok := integer(v); ok && i != math.MinInt64 {
		if n.neg {
			return -i
		}
		return i
	}
	f, ok := v.(float64)
	if !ok {
		fail("a %s has no sign", kind(v))
	}
	if n.neg {
		return -f
	}
	return f
}

func (l *logical) eval(r *run, s *scope) any {
	var v any
	for _, e := range l.parts {
		if v = r.eval(e, s); truth(v) == l.or {
			break
		}
	}
	return v
}

func (c *choice) eval(r *run, s *scope) any {
	switch {
	case truth(r.eval(c.cond, s)):
		return r.eval(c.yes, s)
	case c.no == nil:
		return undefined{"what an if without else leaves out"}
	}
	return r.eval(c.no, s)
}

func (c *comparison) eval(r *run, s *scope) any {
	left := r.eval(c.first, s)
	for i, e := range c.rest {
		right := r.eval(e, s)
		if !r.holds(c.ops[i], left, right) {
			return false
		}
		left = right
	}
	return true
}

func (r *run) holds(op string, a, b any) bool {
	r.weigh(a)
	r.weigh(b)
	switch op {
	case "==":
		return r.equal(a, b)
	case "!=":
		return !r.equal(a, b)
	case "in":
		return r.contains(b, a)
	case "not in":
		return !r.contains(b, a)
	}
	n := r.compare(a, b)
	switch op {
	case "<":
		return n < 0
	case "<=":
		return n <= 0
	case ">":
		return n > 0
	}
	return n >= 0
}

// weigh counts the work of visiting all of a value.
func (r *run) weigh(v any) {
	switch x := v.(type) {
	case string:
		r.work(len(x) >> 6)
	case []any:
		r.work(len(x))
	case tuple:
		r.work(len(x))
	}
}

func (r *run) contains(in, v any) bool {
	switch x := in.(type) {
	case string:
		s, ok := v.(string)
		if !ok {
			fail("a %s is in no text", kind(v))
		}
		return strings.Contains(x, s)
	case *dict:
		_, ok := x.get(v)
		return ok
	}
	return slices.ContainsFunc(r.items(in), func(item any) bool { return r.equal(item, v) })
}

func (c *chain) eval(r *run, s *scope) any {
	v := r.eval(c.first, s)
	for i, e := range c.rest {
		v = r.arithmetic(c.ops[i], v, r.eval(e, s))
	}
	return v
}

func (r *run) arithmetic(op string, a, b any) any {
	for _, v := range []any{a, b} {
		if u, ok := v.(undefined); ok && op != "~" {
			fail("%s is undefined", u.what)
		}
	}
	switch op {
	case "~":
		s, t := r.str(a), r.str(b)
		r.charge(len(s) + len(t))
		return s + t
	case "+":
		if v, ok := r.joined(a, b); ok {
			return v
		}
	case "*":
		if v, ok := r.repeated(a, b); ok {
			return v
		}
		if v, ok := r.repeated(b, a); ok {
			return v
		}
	case "%":
		if s, ok := a.(string); ok {
			return r.format(s, b)
		}
	}
	if bothInts(a, b) && op != "/" {
		x, _ := integer(a)
		y, _ := integer(b)
		if op != "**" || y >= 0 {
			return intArithmetic(op, x, y)
		}
	}
	x, okA := number(a)
	y, okB := number(b)
	if !okA || !okB {
		fail("a %s %s a %s is nothing", kind(a), op, kind(b))
	}
	return floatArithmetic(op, x, y)
}

func (r *run) joined(a, b any) (any, bool) {
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			r.charge(len(x) + len(y))
			return x + y, true
		}
	case []any:
		if y, ok := b.([]any); ok {
			r.charge((len(x) + len(y)) * itemSize)
			return slices.Concat(x, y), true
		}
	case tuple:
		if y, ok := b.(tuple); ok {
			r.charge((len(x) + len(y)) * itemSize)
			return slices.Concat(x, y), true
		}
	}
	return nil, false
}

func (r *run) repeated(a, b any) (any, bool) {
	times, ok := integer(b)
	if !ok {
		return nil, false
	}
	n := int(max(0, min(times, maxAlloc)))
	switch x := a.(type) {
	case string:
		r.charge(len(x) * n)
		return strings.Repeat(x, n), true
	case []any:
		r.charge(len(x) * n * itemSize)
		return slices.Repeat(x, n), true
	case tuple:
		r.charge(len(x) * n * itemSize)
		return slices.Repeat(x, n), true
	}
	return nil, false
}

func intArithmetic(op string, x, y int64) any {
	if (op == "//" || op == "%") && y == 0 {
		fail("a division by zero")
	}
	var out int64
	var big float64
	switch op {
	case "+":
		out, big = x+y, float64(x)+float64(y)
	case "-":
		out, big = x-y, float64(x)-float64(y)
	case "*":
		out, big = x*y, float64(x)*float64(y)
	case "**":
		if x >= -1 && x <= 1 && y > 1 {
			y = 2 - y%2 // all higher powers repeat these two
		}
		out = 1
		for range y {
			if big = float64(out) * float64(x); math.Abs(big) >= 1<<62 {
				break
			}
			out *= x
		}
	case "//", "%":
		if y == -1 {
			return map[string]any{"//": -x, "%": int64(0)}[op]
		}
		out = x / y
		if rest := x % y; rest != 0 && (rest < 0) != (y < 0) {
			out--
		}
		if op == "%" {
			out = x - out*y
		}
	}
	if math.Abs(big) >= 1<<62 {
		fail("a number is too large")
	}
	return out
}

func floatArithmetic(op string, x, y float64) any {
	if (op == "/" || op == "//" || op == "%") && y == 0 {
		fail("a division by zero")
	}
	switch op {
	case "+":
		return x + y
	case "-":
		return x - y
	case "*":
		return x * y
	case "/":
		return x / y
	case "//":
		quotient, _ := divided(x, y)
		return quotient
	case "%":
		_, rest := divided(x, y)
		return rest
	}
	out := math.Pow(x, y)
	switch {
	case x == 0 && y < 0:
		fail("a division by zero")
	case x < 0 && y != math.Trunc(y):
		fail("a root of a number below zero")
	case math.IsInf(out, 0) && x-x == 0 && y-y == 0:
		fail("a number is too large")
	}
	return out
}

// divided is Python's divmod: the rest has the divisor's sign, zero included.
func divided(x, y float64) (quotient, rest float64) {
	rest = math.Mod(x, y)
	quotient = (x - rest) / y
	switch {
	case rest == 0:
		rest = math.Copysign(0, y)
	case (rest < 0) != (y < 0):
		rest += y
		quotient--
	}
	if quotient == 0 {
		return math.Copysign(0, x/y), rest
	}
	whole := math.Floor(quotient)
	if quotient-whole > 0.5 {
		whole++
	}
	return whole, rest
}

// attr returns an attribute of the loop variable.
func (l *loop) attr(id string) any {
	n := int64(len(l.items))
	at := int64(l.at)
	switch id {
	case "index":
		return at + 1
	case "index0":
		return at
	case "revindex":
		return n - at
	case "revindex0":
		return n - at - 1
	case "first":
		return at == 0
	case "last":
		return at == n-1
	case "length":
		return n
	case "depth":
		return int64(l.depth + 1)
	case "depth0":
		return int64(l.depth)
	case "previtem":
		if at > 0 {
			return l.items[at-1]
		}
	case "nextitem":
		if at < n-1 {
			return l.items[at+1]
		}
	case "cycle":
		return callable(func(_ *run, a args) any {
			if len(a.pos) == 0 {
				fail("loop.cycle() takes what to go through")
			}
			return a.pos[l.at%len(a.pos)]
		})
	case "changed":
		return callable(func(r *run, a args) any {
			if l.changed != nil && r.equal(tuple(l.changed), tuple(a.pos)) {
				return false
			}
			l.changed = append([]any{}, a.pos...)
			return true
		})
	}
	return undefined{"loop." + id}
}
