package api

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Answers of /v1/responses are kept in memory, so that clients can refer to them, and
// nowhere else. The oldest go first when there are too many.
const (
	keptTime  = time.Hour
	mostKept  = 4096
	keptBytes = 64 << 20 // of all answers with their conversations
	keptExtra = 512      // bytes that an answer or an item takes besides its text
)

// callerID tells callers apart: a hash of the key that let them in or, where none is
// needed, of the secrets that they sent.
type callerID [sha256.Size]byte

// keptAnswers is the store of answers. It is safe for concurrent use.
type keptAnswers struct {
	mu      sync.Mutex
	callers map[callerID]*ownAnswers // those with answers
	count   int                      // of all answers
	bytes   int

	most, room int // limits of count and bytes
}

// ownAnswers are the answers of one caller, who finds no others.
type ownAnswers struct {
	answers map[string]*keptAnswer
	items   map[string]json.RawMessage // of the answers' outputs
	order   []string                   // ids of the answers, oldest first
	bytes   int
}

// keptAnswer is an answer with the conversation before it, or a conversation, which has no
// output. It does not change.
type keptAnswer struct {
	body   json.RawMessage   // the response or conversation object
	input  []json.RawMessage // with that of earlier answers, each with an id
	output []json.RawMessage
	ids    []string       // of output
	thread *messageThread // instead of all that: the answer is one of /v1/messages
	bytes  int
	end    *time.Timer
}

func newKeptAnswers(most, room int) *keptAnswers {
	return &keptAnswers{callers: map[callerID]*ownAnswers{}, most: most, room: room}
}

// recollection is what one caller has kept. A nil one holds nothing.
type recollection struct {
	kept   *keptAnswers
	caller callerID
}

// of returns the answers of a request's caller.
func (k *keptAnswers) of(r *http.Request) *recollection {
	id := visitOf(r.Context()).secret
	if id == "" {
		sent := secrets(r)
		id = sent[0] + "\n" + sent[1]
	}
	return &recollection{k, sha256.Sum256([]byte(id))}
}

// keep stores an answer that is complete, after the conversation that led to it, if the
// request wants that, and extends the conversation that the request names. What is larger
// than the whole store is not kept.
func (c *recollection) keep(j *responseJob, answer *response) {
	if !answer.Store && j.conv == "" {
		return
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return
	}
	var input, output []json.RawMessage
	for _, raw := range j.input {
		input = append(input, listed(raw))
	}
	a := newConversation(body, input)
	for _, item := range answer.Output {
		raw, err := json.Marshal(item)
		if err != nil {
			return
		}
		output, a.ids = append(output, raw), append(a.ids, item.ID)
		a.bytes += 2*len(raw) + keptExtra
	}
	a.output = output
	if j.conv != "" {
		c.extend(j.conv, func(old []json.RawMessage) []json.RawMessage {
			return slices.Concat(old, input[j.old:], output)
		})
	}
	if answer.Store {
		c.put(answer.ID, a)
	}
}

// put stores an answer under an id that is new, unless it is larger than the whole store.
// k.mu is held.
func (k *keptAnswers) put(caller callerID, id string, a *keptAnswer) bool {
	if a.bytes > k.room {
		return false
	}
	for k.count >= k.most || k.bytes+a.bytes > k.room {
		k.dropOldest()
	}
	own := k.callers[caller]
	if own == nil {
		own = &ownAnswers{answers: map[string]*keptAnswer{}, items: map[string]json.RawMessage{}}
		k.callers[caller] = own
	}
	a.end = time.AfterFunc(keptTime, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if own := k.callers[caller]; own != nil && own.answers[id] == a { // it may have been replaced
			k.drop(caller, id)
		}
	})
	own.answers[id], own.order = a, append(own.order, id)
	for i, item := range a.ids {
		own.items[item] = a.output[i]
	}
	own.bytes += a.bytes
	k.bytes += a.bytes
	k.count++
	return true
}

// dropOldest removes the oldest answer of the caller whose answers take most room, so that
// one caller cannot drive out the others' answers. k.mu is held.
func (k *keptAnswers) dropOldest() {
	var caller callerID
	most := 0
	for id, own := range k.callers {
		if own.bytes > most {
			caller, most = id, own.bytes
		}
	}
	k.drop(caller, k.callers[caller].order[0])
}

// drop removes an answer, if it is there. k.mu is held.
func (k *keptAnswers) drop(caller callerID, id string) bool {
	own := k.callers[caller]
	if own == nil || own.answers[id] == nil {
		return false
	}
	a := own.answers[id]
	a.end.Stop()
	delete(own.answers, id)
	at := slices.Index(own.order, id)
	own.order = slices.Delete(own.order, at, at+1)
	for _, item := range a.ids {
		delete(own.items, item)
	}
	own.bytes -= a.bytes
	k.bytes -= a.bytes
	if k.count--; len(own.order) == 0 {
		delete(k.callers, caller)
	}
	return true
}

// own calls what with the caller's answers, if there are any.
func (c *recollection) own(what func(*ownAnswers)) {
	if c == nil {
		return
	}
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	if own := c.kept.callers[c.caller]; own != nil {
		what(own)
	}
}

func (c *recollection) put(id string, a *keptAnswer) bool {
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	return c.kept.put(c.caller, id, a)
}

// answer returns what has an id, if that is of the kind that begins so; nil: there is
// none.
func (c *recollection) answer(kind, id string) (a *keptAnswer) {
	if strings.HasPrefix(id, kind) {
		c.own(func(own *ownAnswers) { a = own.answers[id] })
	}
	return a
}

// forget removes what has an id, and reports whether it was there.
func (c *recollection) forget(kind, id string) bool {
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	return strings.HasPrefix(id, kind) && c.kept.drop(c.caller, id)
}

// conversation returns all items up to an answer's end.
func (c *recollection) conversation(id string) ([]json.RawMessage, error) {
	a := c.answer("resp_", id)
	if a == nil {
		return nil, &Error{Kind: NoPrevious, Param: "previous_response_id", Message: fmt.Sprintf("Previous response with id '%.64s' not found.", id)}
	}
	return slices.Concat(a.input, a.output), nil
}

// item returns the item that a reference at param means.
func (c *recollection) item(param, id string) (json.RawMessage, error) {
	var raw json.RawMessage
	c.own(func(own *ownAnswers) { raw = own.items[id] })
	if raw == nil {
		return nil, &Error{Kind: NotFound, Param: param, Message: fmt.Sprintf("Item with id '%.64s' not found. Items are kept for %d minutes, and not if `store` is set to false: send the item itself, or remove it from your input.", id, int(keptTime.Minutes()))}
	}
	return raw, nil
}

// listed returns an item in the form in which items are listed: with an id and a type, and
// a message's content as parts.
func listed(raw json.RawMessage) json.RawMessage {
	var item map[string]json.RawMessage
	if json.Unmarshal(raw, &item) != nil {
		return raw // never: it was read before
	}
	if !present(item["type"]) {
		item["type"] = quoted("message")
	}
	message := string(item["type"]) == `"message"`
	if !present(item["id"]) {
		prefix := "item_"
		if message {
			prefix = "msg_"
		}
		item["id"] = quoted(newID(prefix))
	}
	if message {
		kind := "input_text"
		if string(item["role"]) == `"assistant"` {
			kind = "output_text"
		}
		if content := item["content"]; first(content) == '"' {
			part := fmt.Sprintf(`{"type":"%s","text":%s`, kind, content)
			if kind == "output_text" {
				part += `,"annotations":[]`
			}
			item["content"] = json.RawMessage("[" + part + "}]")
		}
		if !present(item["status"]) {
			item["status"] = quoted("completed")
		}
	}
	out, err := json.Marshal(item)
	if err != nil {
		return raw // never, likewise
	}
	return out
}

// ---- endpoints ------------------------------------------------------------

// found returns the answer that a request's path names.
func (s *server) found(r *http.Request) (*keptAnswer, error) {
	a := s.kept.of(r).answer("resp_", r.PathValue("id"))
	if a == nil {
		return nil, noResponse(r)
	}
	return a, nil
}

func noResponse(r *http.Request) error {
	return Errorf(NotFound, "Response with id '%.64s' not found.", r.PathValue("id"))
}

// response answers GET /v1/responses/{id}.
func (s *server) response(w http.ResponseWriter, r *http.Request) error {
	a, err := s.found(r)
	if err != nil {
		return err
	}
	if r.URL.Query().Get("stream") == "true" {
		return badParam("stream", "is not supported: the answer is complete")
	}
	writeJSON(w, http.StatusOK, a.body)
	return nil
}

// deleteResponse answers DELETE /v1/responses/{id}.
func (s *server) deleteResponse(w http.ResponseWriter, r *http.Request) error {
	if !s.kept.of(r).forget("resp_", r.PathValue("id")) {
		return noResponse(r)
	}
	writeJSON(w, http.StatusOK, deletion{r.PathValue("id"), "response", true})
	return nil
}

type deletion struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Deleted bool   `json:"deleted"`
}

// cancelResponse answers POST /v1/responses/{id}/cancel. Only answers in the background
// can be cancelled so, and there are none: others end when their request is closed.
func (s *server) cancelResponse(_ http.ResponseWriter, r *http.Request) error {
	if _, err := s.found(r); err != nil {
		return err
	}
	return &Error{Kind: BadInput, Message: "Cannot cancel a synchronous response."}
}

// inputItems answers GET /v1/responses/{id}/input_items.
func (s *server) inputItems(w http.ResponseWriter, r *http.Request) error {
	a, err := s.found(r)
	if err != nil {
		return err
	}
	return writeItems(w, r, a.input)
}

// writeItems writes the part of a list of items that a request asks for.
func writeItems(w http.ResponseWriter, r *http.Request, items []json.RawMessage) error {
	q := r.URL.Query()
	items = slices.Clone(items)
	switch q.Get("order") {
	case "", "desc":
		slices.Reverse(items)
	case "asc":
	default:
		return badParam("order", "must be asc or desc")
	}
	ids := make([]string, len(items))
	for i, raw := range items {
		ids[i] = itemID(raw)
	}
	from, to, err := pageOf(ids, q.Get("after"), q.Get("limit"), "limit")
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, itemPage(items, from, to))
	return nil
}

// itemID returns the id of an item that is listed.
func itemID(raw json.RawMessage) string {
	var item struct{ ID string }
	_ = json.Unmarshal(raw, &item) // listed has made it
	return item.ID
}

// itemList is a part of a list of items.
type itemList struct {
	Object  string            `json:"object"` // list
	Data    []json.RawMessage `json:"data"`
	FirstID *string           `json:"first_id"`
	LastID  *string           `json:"last_id"`
	HasMore bool              `json:"has_more"`
}

func itemPage(items []json.RawMessage, from, to int) itemList {
	list := itemList{Object: "list", Data: append([]json.RawMessage{}, items[from:to]...), HasMore: to < len(items)}
	if to > from {
		list.FirstID, list.LastID = new(itemID(items[from])), new(itemID(items[to-1]))
	}
	return list
}

// pageOf returns the part of a list that begins behind an id and has at most as many
// entries as limit says, 20 by default. An id that is not in the list is at its beginning.
func pageOf(ids []string, after, limit, param string) (from, to int, err error) {
	n := 20
	if limit != "" {
		if n, err = strconv.Atoi(limit); err != nil || n < 1 || n > 1000 {
			return 0, 0, badParam(param, "must be a number between 1 and 1000")
		}
	}
	if after != "" {
		from = slices.Index(ids, after) + 1
	}
	return from, min(len(ids), from+n), nil
}
